"""A trial's latency as it is stored: measured on the device at hand, or predicted for another one.

Records are frozen and go to JSON and back without loss, also those of older studies: a field that a study did not store
is None and is not written, and fields that this version does not know stay in `extra`. A predicted value is never shown
without the words that say so (:attr:`PredictedLatency.caveat`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self, TypeAlias

from nasopt.errors import StorageError

USED = {"tf32": "TF32", "cuda_graph": "CUDA graph"}
"""The words for fields of a measurement that say how else the model was run."""


def device_identity(name: str, threads: int, is_gpu: bool = False) -> str:
    """The device as one string, a CPU with its `threads`; equal strings mean comparable latencies."""
    return name if is_gpu else f"{name}, {threads} thread{'s' if threads != 1 else ''}"


def measured_identity(device: str, threads: int, is_gpu: bool) -> str:
    """The identity of a source that measures."""
    return f"measured, {device_identity(device, threads, is_gpu)}"


def predicted_identity(profile: str, fitted: str) -> str:
    """The identity of a source that predicts or looks up."""
    return f"predicted, {profile}, fit of {fitted}"


@dataclass(frozen=True, kw_only=True)
class StoredLatency(ABC):
    """The fields and words that a measured and a predicted latency share.

    Attributes:
        value_ms: the objective's value: `ratio` times the base model's latency at trial 0.
        median_ms: the candidate's own time for one forward pass of one batch.
        base_median_ms: the base model's time, from the same source.
        ratio: candidate / base; below 1 is faster than the base model.
        device: the model name of the CPU or GPU, or the name of the profile.
        dtype: the candidate's precision (``fp32``, ``int8`` ...).
        batch_size: the number of sequences in a batch.
        sequence_length: the number of tokens in each sequence, or in the longest where lengths differ.
        lengths: ``fixed`` or ``validation``; None in older records, and where measured lengths are fixed.
        runtime: the runtime that ran the model; None in records that are older than the choice.
        extra: stored fields that this version does not know.
    """

    source: ClassVar[str]

    value_ms: float
    median_ms: float
    base_median_ms: float
    ratio: float
    device: str
    dtype: str
    batch_size: int
    sequence_length: int
    lengths: str | None = None
    runtime: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The record that :meth:`to_json` wrote, of any version.

        Raises:
            StorageError: a field is missing that every version has stored.
        """
        known = [item for item in fields(cls) if item.name != "extra"]
        values: dict[str, Any] = {}
        for item in known:
            value = document.get(item.name)
            if value is not None:
                values[item.name] = tuple(value) if isinstance(value, list) else value
        if missing := [item.name for item in known if item.default is MISSING and item.name not in values]:
            raise StorageError(f"a {cls.source} latency is stored without {', '.join(missing)}: the study is damaged")
        extra = {name: value for name, value in document.items() if name not in values and name != "source"}
        return cls(**values, extra=extra)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, without those that are None."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "extra"}
        stored = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }
        return {**stored, "source": self.source, **self.extra}

    @property
    @abstractmethod
    def identity(self) -> str:
        """The identity of the source: values whose identities differ must not be compared."""

    @property
    @abstractmethod
    def source_words(self) -> str:
        """`measured`, or `predicted, a100-40gb, +-12 %` with the parts of the shape beyond the calibration."""

    @property
    @abstractmethod
    def caveat(self) -> str:
        """Words, in brackets after a blank, that are shown beside the value; empty if none are needed."""

    @property
    @abstractmethod
    def ratio_words(self) -> str:
        """The ratio to the base model, with its interval where it has one."""

    @property
    @abstractmethod
    def spread_words(self) -> str:
        """The candidate's own time with its spread or interval, in ms."""

    @property
    @abstractmethod
    def device_words(self) -> str:
        """The device, a GPU with its driver."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """Batch, device, runtime, ratio and source in one line."""

    @property
    def batch_words(self) -> str:
        """The batch's shape, `32 x 128 tokens`, or the words for lengths that differ."""
        if self.lengths == "validation":
            return f"{self.batch_size} x texts of the validation split, at most {self.sequence_length} tokens"
        return f"{self.batch_size} x {self.sequence_length} tokens"

    @property
    def runtime_words(self) -> str:
        """The runtime with its version and options; `eager` in studies that are older than the choice."""
        return self.runtime or "eager"

    @property
    def _place(self) -> str:
        return f"{self.batch_words} on {self.device} ({self.runtime_words})"


@dataclass(frozen=True, kw_only=True)
class MeasuredLatency(StoredLatency):
    """A latency that was measured in alternation with the base model.

    Attributes:
        p10_ms, p90_ms: percentiles of the candidate's times.
        repetitions: the number of pairs of candidate and base model that were timed.
        ratio_low, ratio_high: the ends of the 95 % interval of `ratio`.
        driver: the version of the GPU's driver; empty for a CPU.
        torch_version: torch's version with its build (``2.13.0+cpu``).
        threads: the threads of one operation on the CPU.
        runtime_version: the runtime's version, where it is not torch.
        batches: how many batches were measured, where lengths are those of the validation split.
        mean_length: their mean padded length, in tokens.
        tf32, cuda_graph: True, or None where they were not used.
    """

    source: ClassVar[str] = "measured"

    p10_ms: float
    p90_ms: float
    repetitions: int
    ratio_low: float
    ratio_high: float
    driver: str
    torch_version: str
    threads: int
    runtime_version: str | None = None
    batches: int | None = None
    mean_length: float | None = None
    tf32: bool | None = None
    cuda_graph: bool | None = None

    @property
    def identity(self) -> str:
        return measured_identity(self.device, self.threads, bool(self.driver))

    @property
    def source_words(self) -> str:
        return self.source

    @property
    def caveat(self) -> str:
        return ""

    @property
    def ratio_words(self) -> str:
        return f"{self.ratio:.3f} ({self.ratio_low:.3f} to {self.ratio_high:.3f})"

    @property
    def spread_words(self) -> str:
        return f"{self.median_ms:.3f} ms ({self.p10_ms:.3f} to {self.p90_ms:.3f})"

    @property
    def device_words(self) -> str:
        return f"{self.device}, driver {self.driver}" if self.driver else self.device

    @property
    def runtime_words(self) -> str:
        name = " ".join(filter(None, (super().runtime_words, self.runtime_version)))
        return ", ".join([name, *(words for key, words in USED.items() if getattr(self, key))])

    @property
    def summary(self) -> str:
        return (
            f"{self._place}, {self.threads} threads, torch {self.torch_version}; ratio to the base model "
            f"{self.ratio:.3f} ({self.ratio_low:.3f} to {self.ratio_high:.3f}, {self.repetitions} pairs); {self.source}"
        )


@dataclass(frozen=True, kw_only=True)
class PredictedLatency(StoredLatency):
    """A latency that was predicted from a device's profile, or looked up in a table that was measured elsewhere.

    Attributes:
        profile: the name of the device's profile, or the identity of the table.
        fitted: the date of the fit, or of the table.
        low_ms, high_ms: the ends of the interval of `median_ms`.
        interval_percent: the `x` of "+-x %".
        beyond: the parts of the shape that lie beyond the calibration; empty if none do.
        threads: the CPU threads of the table; None where a profile predicts.
    """

    source: ClassVar[str] = "predicted"

    profile: str
    fitted: str
    low_ms: float
    high_ms: float
    interval_percent: float
    beyond: tuple[str, ...]
    threads: int | None = None

    @property
    def identity(self) -> str:
        return predicted_identity(self.profile, self.fitted)

    @property
    def source_words(self) -> str:
        parts = [self.source, self.profile, f"+-{self.interval_percent:.0f} %"]
        if self.beyond:
            parts.append(f"extrapolated ({', '.join(self.beyond)})")
        return ", ".join(parts)

    @property
    def caveat(self) -> str:
        return f" ({self.source_words})"

    @property
    def ratio_words(self) -> str:
        return f"{self.ratio:.3f}"

    @property
    def spread_words(self) -> str:
        return f"{self.median_ms:.3f} ms (interval {self.low_ms:.3f} to {self.high_ms:.3f})"

    @property
    def device_words(self) -> str:
        return self.device

    @property
    def summary(self) -> str:
        return f"{self._place}; ratio to the base model {self.ratio:.3f}; {self.source_words}"


LatencyRecord: TypeAlias = MeasuredLatency | PredictedLatency
KINDS: Mapping[str, type[MeasuredLatency] | type[PredictedLatency]] = {
    kind.source: kind for kind in (MeasuredLatency, PredictedLatency)
}

Latencies: TypeAlias = Mapping[str, LatencyRecord]
"""A trial's latencies by objective."""


@dataclass(frozen=True)
class Confirmation:
    """A latency that was looked up in the search, and measured afterwards.

    Attributes:
        measured: the latency that was measured.
        predicted_ms: the objective's value as it was looked up, which stays the trial's.
        predicted_ratio: candidate / base, as it was looked up.
    """

    measured: MeasuredLatency
    predicted_ms: float
    predicted_ratio: float

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Confirmation:
        """The confirmation that :meth:`to_json` wrote.

        Raises:
            StorageError: a field is missing.
        """
        looked_up = {name: document[name] for name in ("predicted_ms", "predicted_ratio") if name in document}
        if missing := [name for name in ("predicted_ms", "predicted_ratio") if name not in looked_up]:
            raise StorageError(f"a confirmation is stored without {', '.join(missing)}: the study is damaged")
        rest = {name: value for name, value in document.items() if name not in looked_up}
        return cls(MeasuredLatency.from_json(rest), **looked_up)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        looked_up = {"predicted_ms": self.predicted_ms, "predicted_ratio": self.predicted_ratio}
        return {**self.measured.to_json(), **looked_up}

    @property
    def error(self) -> float:
        """The relative error of the objective's value: predicted / measured - 1."""
        return self.predicted_ms / self.measured.value_ms - 1

    @property
    def ratio_error(self) -> float:
        """The relative error of the ratio to the base model, on which the load of the machine has no effect."""
        return self.predicted_ratio / self.measured.ratio - 1


def latency_from_json(document: Mapping[str, Any]) -> LatencyRecord:
    """The record of a stored latency.

    Raises:
        StorageError: its source is not known, or it lacks a field.
    """
    kind = KINDS.get(document.get("source", ""))
    if kind is None:
        raise StorageError(f"a latency is stored with the source {document.get('source')!r}, which is not known")
    return kind.from_json(document)


def latencies_from_json(document: Mapping[str, Mapping[str, Any]]) -> dict[str, LatencyRecord]:
    """A trial's stored latencies, by objective.

    Raises:
        StorageError: see :func:`latency_from_json`.
    """
    return {name: latency_from_json(item) for name, item in document.items()}


def latencies_to_json(latencies: Latencies) -> dict[str, dict[str, Any]]:
    """The latencies as a trial stores them."""
    return {name: item.to_json() for name, item in latencies.items()}


def confirmations_from_json(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Confirmation]:
    """The confirmations of one trial, by objective.

    Raises:
        StorageError: a field is missing.
    """
    return {name: Confirmation.from_json(item) for name, item in document.items()}


def predicted_words(latencies: Latencies) -> str | None:
    """Names a trial's predicted latencies, with the profile and interval of each; None if none is predicted."""
    found = {name: item.source_words for name, item in latencies.items() if isinstance(item, PredictedLatency)}
    if len(latencies) == 1:
        return next(iter(found.values()), None)
    return "; ".join(f"{name}: {words}" for name, words in found.items()) or None


def source_of(latencies: Latencies) -> str | None:
    """`predicted` if any of a trial's latencies is; None if it has none."""
    sources = [item.source for item in latencies.values()]
    return PredictedLatency.source if PredictedLatency.source in sources else next(iter(sources), None)
