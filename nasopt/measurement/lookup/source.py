"""Latencies that are looked up in a measured table."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.outside import OutsideArchitecture
from nasopt.config.study import LatencyConfig
from nasopt.measurement.estimating import EstimatingSource, Origin
from nasopt.measurement.inputs import shapes_of
from nasopt.measurement.lookup.checks import check_model, check_outside, open_table
from nasopt.measurement.lookup.table import Estimate
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.subject import Subject
from nasopt.models.families import encoder_shape


class LookupSource(EstimatingSource):
    """Latencies looked up in a table that was measured, on this machine or on another one.

    Raises:
        LookupTableError: the table is wrong, or does not fit the study or, where its values are to be confirmed, this
            machine.
    """

    estimates = (Architecture, OutsideArchitecture)

    def __init__(self, latency: LatencyConfig, precisions: Sequence[str]) -> None:
        self.latency = latency
        self.table = open_table(latency, precisions)
        self.runtime = self.table.runtime

    def check_model(self, config: PretrainedConfig) -> None:
        """Makes sure that the table was made for candidates of a base model with this configuration.

        Raises:
            LookupTableError: it was made for another family, or for heads of another size.
        """
        check_model(self.table, config.model_type, encoder_shape(config))

    def check_outside(self, architecture: OutsideArchitecture) -> None:
        super().check_outside(architecture)
        check_outside(self.table, architecture)

    @property
    def origin(self) -> Origin:
        table = self.table
        return Origin(table.identity, table.device, table.created.isoformat(), table.threads)

    def estimate(self, architecture: CandidateArchitecture, subject: Subject) -> Sequence[Estimate]:
        hidden_size = subject.shape.hidden_size
        if isinstance(architecture, OutsideArchitecture):
            layers, hidden_size = list(architecture.layers), architecture.hidden_size
        elif isinstance(architecture, Architecture):
            layers = [(len(units.heads), len(units.neurons)) for units in architecture.layers if units is not None]
        else:
            raise MeasurementError("no latency can be looked up of an architecture that is not of transformer layers")
        return [
            self.table.predict(
                layers,
                hidden_size=hidden_size,
                batch_size=size,
                sequence_length=length,
                precision=architecture.precision,
            )
            for size, length in shapes_of(self.latency, subject.lengths)
        ]
