"""A latency source that measures nothing: candidate and base model are estimated alike, from their architectures."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.outside import OutsideArchitecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import UnsupportedModelError
from nasopt.measurement.device import working_device
from nasopt.measurement.measured.latency import normalised_ms
from nasopt.measurement.subject import Subject
from nasopt.records.latency import PredictedLatency, predicted_identity


class Estimated(Protocol):
    """The estimated latency of one pass of one batch, in ms, with its interval."""

    @property
    def latency_ms(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def interval_percent(self) -> float: ...

    @property
    def beyond(self) -> str: ...


@dataclass(frozen=True)
class Origin:
    """The origin of estimates, as records name it; see :class:`nasopt.records.latency.PredictedLatency`."""

    profile: str
    device: str
    fitted: str
    threads: int | None = None


class EstimatingSource(ABC):
    """Latencies that are computed for a device from architectures alone."""

    estimates: ClassVar[tuple[type[CandidateArchitecture], ...]]
    """The kinds of architectures whose latency it knows."""

    latency: LatencyConfig
    runtime: str

    @property
    @abstractmethod
    def origin(self) -> Origin:
        """The origin of the estimates."""

    @abstractmethod
    def estimate(self, architecture: CandidateArchitecture, subject: Subject) -> Sequence[Estimated]:
        """The latency of one pass of each batch.

        Raises:
            MeasurementError: the architecture is not one of transformer layers.
        """

    def check_outside(self, architecture: OutsideArchitecture) -> None:
        """Makes sure that the latency of a model that was made elsewhere can be estimated as the candidates' is.

        Raises:
            UnsupportedModelError: nothing is known of what it is made of, or the source knows no such models.
            LookupTableError: the table was made for other models.
        """
        if not architecture.layers or OutsideArchitecture not in self.estimates:
            raise UnsupportedModelError(
                f"model {architecture.model.source!r}: this study's latencies are computed from the layers of an "
                f"encoder, and those of a {architecture.model_type} model are not known; its latency can only be "
                "measured"
            )

    @property
    def device(self) -> torch.device:
        """The device on which candidates are evaluated: the best one at hand."""
        return working_device()

    @property
    def identity(self) -> str:
        """See :class:`nasopt.measurement.sources.LatencySource`."""
        return predicted_identity(self.origin.profile, self.origin.fitted)

    def record(self, subject: Subject, reference_ms: float | None) -> PredictedLatency:
        """The estimated latency, where lengths differ the mean over the batches.

        See :class:`nasopt.measurement.sources.LatencySource`.

        Raises:
            MeasurementError: the candidate is not an encoder of transformer layers.
            RuntimeNotKnownError: its precision cannot be predicted.
        """
        latency, origin, architecture = self.latency, self.origin, subject.architecture
        found, base = (self.estimate(item, subject) for item in (architecture, Architecture.full(subject.shape)))
        median, base_median = (statistics.fmean(item.latency_ms for item in items) for items in (found, base))
        ratio = median / base_median
        return PredictedLatency(
            value_ms=normalised_ms(ratio, base_median if reference_ms is None else reference_ms),
            profile=origin.profile,
            device=origin.device,
            fitted=origin.fitted,
            threads=origin.threads,
            runtime=self.runtime,
            dtype=architecture.precision,
            batch_size=latency.batch_size,
            sequence_length=latency.sequence_length,
            lengths=latency.lengths,
            median_ms=median,
            low_ms=statistics.fmean(item.low for item in found),
            high_ms=statistics.fmean(item.high for item in found),
            interval_percent=max(item.interval_percent for item in found),
            beyond=tuple(sorted({item.beyond for item in found} - {""})),
            base_median_ms=base_median,
            ratio=ratio,
        )
