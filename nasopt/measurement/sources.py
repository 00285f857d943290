"""Latency as an objective: a record for each candidate, measured on the device at hand or predicted for another.

A *source* says how long candidate and base model take, and where that comes from. The value of the objective is the
ratio of the two times the base model's latency at trial 0, so that the drift of a busy machine cancels and values of
different days compare. A study never mixes sources or devices in one objective: see :func:`device_changes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from nasopt.architecture.artifacts import precisions_of, refusal
from nasopt.architecture.base import Precision
from nasopt.config.study import LatencyConfig, StudyConfig
from nasopt.errors import StudyFileError, choices
from nasopt.measurement.subject import Subject
from nasopt.records.latency import Latencies, LatencyRecord

if TYPE_CHECKING:
    import torch


class LatencySource(Protocol):
    """Gives a latency record for each candidate, measured or predicted."""

    @property
    def device(self) -> torch.device:
        """The device that candidates are put on: the measured one, else the best at hand."""

    @property
    def runtime(self) -> str:
        """The runtime that the latency is of: with a precision it decides what the artifact is."""

    @property
    def identity(self) -> str:
        """Device and kind of source: values whose identities differ must not be compared."""

    def record(self, subject: Subject, reference_ms: float | None) -> LatencyRecord:
        """The latency of a candidate.

        Args:
            subject: the candidate beside the base model; its artifact is on `device`.
            reference_ms: the base model's latency at trial 0; None in trial 0, whose record says so.
        """


def make_source(latency: LatencyConfig, precisions: Sequence[Precision] = ()) -> LatencySource:
    """The source of one latency objective on this machine.

    A named device is measured if the GPU at hand is one, and predicted otherwise; TensorRT is always predicted.
    With `mode = "lut"` candidates are looked up, whatever the device at hand.

    Args:
        latency: the objective.
        precisions: the precisions in which the search stores models, as far as they are known beforehand.

    Raises:
        DeviceNotFoundError: the device, or ONNX Runtime's provider for it, is not here.
        ProfileError: there is no such profile.
        LookupTableError: the table is wrong, or does not fit the study.
        MissingExtraError: the runtime is not installed.
        RuntimeNotKnownError: the runtime cannot be predicted.
        StudyFileError: a precision has no artifact in the runtime.
    """
    from nasopt.measurement.device import is_device_of, present_gpu, resolve_device
    from nasopt.measurement.measured.source import MeasuringSource

    if latency.mode == "lut":
        from nasopt.measurement.lookup.source import LookupSource

        check_precisions(latency.usual_runtime, latency.device, precisions)
        return LookupSource(latency, precisions)
    if latency.device in ("cpu", "cuda"):
        device = resolve_device(latency.device)
    else:
        from nasopt.measurement.predicted.device_profiles import find_profile
        from nasopt.measurement.predicted.source import PredictingSource

        profile, gpu = find_profile(latency.device), present_gpu()
        if gpu is None or not is_device_of(profile.name, gpu) or latency.runtime == "tensorrt":
            check_precisions(latency.runtime or "tensorrt", latency.device, precisions)
            return PredictingSource(latency, profile, precisions)
        device = resolve_device("cuda")
    check_precisions(latency.runtime or "eager", device.type, precisions)
    return MeasuringSource(latency, device)


def check_precisions(runtime: str, device: str, precisions: Sequence[Precision]) -> None:
    """Refuses a search for models that have no artifact.

    Raises:
        StudyFileError: a precision has none in this runtime.
    """
    reasons = {precision: refusal(runtime, device, precision) for precision in precisions}
    refused = [f"{precision} ({reason})" for precision, reason in reasons.items() if reason is not None]
    if refused:
        place, known = "CPUs" if device == "cpu" else "GPUs", precisions_of(runtime, device)
        raise StudyFileError(
            f"latency.runtime: {runtime} on {place} runs {choices(known)}, and has no artifact in "
            f"{' and '.join(refused)}; create a study without it, or with another runtime"
        )


def make_sources(config: StudyConfig, precisions: Sequence[Precision] = ()) -> dict[str, LatencySource]:
    """The source of every latency objective, by its name, in their order; see :func:`make_source`."""
    return {latency.objective_name: make_source(latency, precisions) for latency in config.latency}


def remarks(config: StudyConfig, sources: Mapping[str, LatencySource]) -> list[str]:
    """What a user should know of how latencies will be measured."""
    return [
        f"{latency.objective_name}: eager mode on a GPU is mostly the host's time to start kernels, which narrower "
        "layers and fewer bits do not shorten; `cuda_graph = true` leaves it out"
        for latency in config.latency
        if (latency.mode, latency.lengths, latency.cuda_graph) == ("direct", "fixed", False)
        and _is_eager_on_gpu(sources[latency.objective_name])
    ]


def _is_eager_on_gpu(source: LatencySource) -> bool:
    return (source.device.type, source.runtime) == ("cuda", "eager")


def device_changes(began: Latencies, sources: Mapping[str, LatencySource]) -> list[str]:
    """The differences, in words, between the sources and the records of trial 0, by objective."""
    return [
        f"{name}: {source.identity}, but the study began with: {began[name].identity}"
        for name, source in sources.items()
        if began[name].identity != source.identity
    ]
