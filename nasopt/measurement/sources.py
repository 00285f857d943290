"""Latency as an objective: a record for each candidate, measured on the device at hand or predicted for another.

A *source* says how long candidate and base model take, and where that comes from. The value of the objective is the
ratio of the two times the base model's latency at trial 0, so that the drift of a busy machine cancels and values of
different days compare. A study never mixes sources or devices in one objective: see :func:`device_changes`.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import LatencyConfig, StudyConfig
from nasopt.errors import StudyFileError, choices
from nasopt.measurement.inputs import inputs_of, shapes_of
from nasopt.records.latency import (
    Latencies,
    LatencyRecord,
    MeasuredLatency,
    PredictedLatency,
    measured_identity,
    predicted_identity,
)
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from nasopt.measurement.lookup.table import Estimate
    from nasopt.measurement.measured.runtimes import RuntimeSettings
    from nasopt.measurement.predicted.device_profiles import DeviceProfile
    from nasopt.measurement.predicted.model import Prediction
    from nasopt.tasks.base import Task


class LatencySource(Protocol):
    """Where latencies come from."""

    @property
    def device(self) -> torch.device:
        """Where candidates are put: the measured device, else the best at hand."""

    @property
    def identity(self) -> str:
        """Device and kind of source: values whose identities differ must not be compared."""

    def record(
        self, artifact: PreTrainedModel, candidate: Candidate, context: Context, reference_ms: float | None
    ) -> LatencyRecord:
        """The latency of a candidate.

        Args:
            artifact: the candidate in its precision, on `device`.
            candidate: its architecture.
            context: the study's base model and data.
            reference_ms: the base model's latency at trial 0; None in trial 0, whose record says so.
        """


def make_source(latency: LatencyConfig, precisions: Sequence[str] = ()) -> LatencySource:
    """The source of one latency objective on this machine.

    A named device is measured if the GPU at hand is one, and predicted otherwise; TensorRT is always predicted.
    With `mode = "lut"` candidates are looked up, whatever the device at hand.

    Args:
        latency: the objective.
        precisions: in which the search stores models, as far as that is known beforehand.

    Raises:
        DeviceNotFoundError: the device, or ONNX Runtime's provider for it, is not here.
        ProfileError: there is no such profile.
        LookupTableError: the table is wrong, or does not fit the study.
        MissingExtraError: the runtime is not installed.
        RuntimeNotKnownError: the runtime cannot be predicted.
        StudyFileError: the runtime has no such precision.
    """
    from nasopt.measurement.device import is_device_of, present_gpu, resolve_device
    from nasopt.measurement.measured.runtimes import check_precisions

    if latency.mode == "lut":
        return LookupSource(latency, precisions)
    if latency.device in ("cpu", "cuda"):
        device = resolve_device(latency.device)
    else:
        from nasopt.measurement.predicted.device_profiles import find_profile

        profile, gpu = find_profile(latency.device), present_gpu()
        if gpu is None or not is_device_of(profile.name, gpu) or latency.runtime == "tensorrt":
            return PredictingSource(latency, profile, precisions)
        device = resolve_device("cuda")
    check_precisions(latency.runtime or "eager", precisions)
    return MeasuringSource(latency, device)


def make_sources(config: StudyConfig, precisions: Sequence[str] = ()) -> dict[str, LatencySource]:
    """The source of every latency objective, by its name, in their order; see :func:`make_source`."""
    return {latency.objective_name: make_source(latency, precisions) for latency in config.latency}


class MeasuringSource:
    """Latencies measured on the device at hand, in alternation with the base model in the same runtime."""

    def __init__(self, latency: LatencyConfig, device: torch.device) -> None:
        from nasopt.measurement.measured.runtimes import RuntimeSettings, check_runtime

        self.latency = latency
        self.device = device
        assert latency.runtime != "tensorrt"
        threads = latency.threads or os.cpu_count() or 1
        self._settings = RuntimeSettings(latency.runtime or "eager", threads, latency.tf32, latency.cuda_graph)
        check_runtime(self._settings.runtime, device)
        self._base: tuple[str, nn.Module] | None = None

    @property
    def identity(self) -> str:
        from nasopt.measurement.device import device_name

        return measured_identity(device_name(self.device), self._settings.threads, self.device.type == "cuda")

    def record(
        self, artifact: PreTrainedModel, candidate: Candidate, context: Context, reference_ms: float | None
    ) -> MeasuredLatency:
        import torch

        from nasopt.measurement.device import device_name, driver_version
        from nasopt.measurement.measured.latency import measure_latency, normalised_ms
        from nasopt.measurement.measured.runtimes import numerics, prepare

        latency, settings, precision = self.latency, self._settings, candidate.architecture.precision
        batches = inputs_of(latency, context, artifact)
        with numerics(settings):
            base = self._base_model(batches, context)
            workload = context.task.workload(artifact)
            model = prepare(workload, batches, settings, precision=precision, device=self.device)
            measurement = measure_latency(model, base, batches, device=self.device, threads=settings.threads)
        reference = measurement.base_median_ms if reference_ms is None else reference_ms
        return MeasuredLatency(
            value_ms=normalised_ms(measurement.ratio, reference),
            **measurement.to_dict(),
            device=device_name(self.device),
            driver=driver_version(self.device),
            torch_version=str(torch.__version__),
            dtype=precision,
            threads=settings.threads,
            batch_size=latency.batch_size,
            sequence_length=latency.sequence_length,
            runtime=settings.runtime,
            **_details(latency, settings, batches),
        )

    def _base_model(self, batches: Sequence[Mapping[str, Tensor]], context: Context) -> nn.Module:
        """The base model in the runtime. ONNX files are converted once for a process; compiled programs are made again,
        for `torch.compile` keeps only so many of one class."""
        from nasopt.measurement.measured.runtimes import forget_compiled, prepare

        settings = self._settings
        if self._base is not None and self._base[0] == context.base_key:
            return self._base[1]
        if settings.runtime == "compile":
            forget_compiled()
        base = context.task.workload(context.base_model.to(self.device))
        module = prepare(base, batches, settings, precision="fp32", device=self.device)
        if settings.runtime == "onnxruntime":
            self._base = (context.base_key, module)
        return module


def _details(
    latency: LatencyConfig, settings: RuntimeSettings, batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, Any]:
    """What else belongs to a measurement, where it is not the usual."""
    from importlib.metadata import version

    details: dict[str, Any] = {}
    if settings.runtime == "onnxruntime":
        details["runtime_version"] = version("onnxruntime")
    if latency.lengths == "validation":
        lengths = [batch["input_ids"].shape[1] for batch in batches]
        details |= {"lengths": "validation", "batches": len(batches), "mean_length": statistics.fmean(lengths)}
    details |= {name: True for name in ("tf32", "cuda_graph") if getattr(settings, name)}
    return details


class PredictingSource:
    """Latencies predicted, from a profile, for a device that is not at hand.

    Raises:
        RuntimeNotKnownError: nothing is known of the runtime.
        StudyFileError: or of a precision, with it on that device.
    """

    def __init__(self, latency: LatencyConfig, profile: DeviceProfile, precisions: Sequence[str]) -> None:
        from nasopt.measurement.predicted.model import known_precisions
        from nasopt.measurement.predicted.software import DEFAULT_RUNTIME, software_of

        self.latency = latency
        self.profile = profile
        self.runtime = latency.runtime or DEFAULT_RUNTIME
        known = known_precisions(profile, software_of(self.runtime), self.runtime)
        unknown = [precision for precision in precisions if precision not in known]
        if unknown:
            raise StudyFileError(
                f"latency.device: for {profile.name} with {self.runtime} latencies are predicted in {choices(known)}, "
                f"not in {choices(unknown)}; leave that out of method_options.precisions"
            )

    @property
    def device(self) -> torch.device:
        from nasopt.measurement.device import working_device

        return working_device()

    @property
    def identity(self) -> str:
        origin = self._origin()
        return predicted_identity(origin["profile"], origin["fitted"])

    def _origin(self) -> dict[str, Any]:
        from nasopt.measurement.predicted.fitted import fitted

        name = self.profile.name
        return {"profile": name, "device": name, "fitted": fitted().date}

    def record(
        self, artifact: PreTrainedModel, candidate: Candidate, context: Context, reference_ms: float | None
    ) -> PredictedLatency:
        """See :class:`LatencySource`. Where lengths differ, the mean over the batches.

        Raises:
            MeasurementError: it is not an encoder of transformer layers.
            RuntimeNotKnownError: its precision cannot be predicted.
        """
        from nasopt.measurement.measured.latency import normalised_ms

        latency, architecture = self.latency, candidate.architecture
        found, base = (self._predict(item, context) for item in (architecture, Architecture.full(context.shape)))
        median, base_median = (statistics.fmean(item.latency_ms for item in items) for items in (found, base))
        ratio = median / base_median
        return PredictedLatency(
            value_ms=normalised_ms(ratio, base_median if reference_ms is None else reference_ms),
            **self._origin(),
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

    def _predict(self, architecture: CandidateArchitecture, context: Context) -> Sequence[Prediction | Estimate]:
        """Of one pass of each batch."""
        from nasopt.measurement.measured.latency import MeasurementError
        from nasopt.measurement.predicted.model import make_case, predict_many
        from nasopt.measurement.predicted.transformer_cost import LayerShape, Workload

        if not isinstance(architecture, Architecture):
            raise MeasurementError("no latency can be predicted of an architecture that is not of transformer layers")
        shape, precision = context.shape, architecture.precision
        kept = [units for units in architecture.layers if units is not None]
        layers = tuple(LayerShape(len(units.heads), shape.head_size, len(units.neurons)) for units in kept)
        number_format = "tf32" if self.latency.tf32 and precision == "fp32" else precision
        workloads = [
            Workload(layers, shape.hidden_size, length, size) for size, length in shapes_of(self.latency, context)
        ]
        return predict_many([make_case(self.profile, self.runtime, number_format, item) for item in workloads])


class LookupSource(PredictingSource):
    """Latencies looked up in a table that was measured, on this machine or on another one.

    Raises:
        LookupTableError: the table is wrong, or does not fit the study or, where its values are to be confirmed, this
            machine.
    """

    def __init__(self, latency: LatencyConfig, precisions: Sequence[str]) -> None:
        from nasopt.measurement.lookup.checks import open_table

        self.latency = latency
        self.table = open_table(latency, precisions)
        self.runtime = self.table.runtime

    def check_model(self, task: Task) -> None:
        """Whether the table was made for such a base model.

        Raises:
            LookupTableError: it is of another family, or of heads of another size.
        """
        from nasopt.measurement.lookup.checks import check_model
        from nasopt.models.families import encoder_shape

        config = task.blank_model().config
        check_model(self.table, config.model_type, encoder_shape(config))

    def _origin(self) -> dict[str, Any]:
        table = self.table
        origin = {"profile": table.identity, "device": table.device, "threads": table.threads}
        return {**origin, "fitted": table.created.isoformat()}

    def _predict(self, architecture: CandidateArchitecture, context: Context) -> Sequence[Prediction | Estimate]:
        """Of one pass of each batch."""
        from nasopt.measurement.measured.latency import MeasurementError

        if not isinstance(architecture, Architecture):
            raise MeasurementError("no latency can be looked up of an architecture that is not of transformer layers")
        layers = [(len(units.heads), len(units.neurons)) for units in architecture.layers if units is not None]
        return [
            self.table.predict(
                layers,
                hidden_size=context.shape.hidden_size,
                batch_size=size,
                sequence_length=length,
                precision=architecture.precision,
            )
            for size, length in shapes_of(self.latency, context)
        ]


def device_changes(began: Latencies, sources: Mapping[str, LatencySource]) -> list[str]:
    """What differs, in words, between the sources and the records of trial 0, by objective."""
    return [
        f"{name}: {source.identity}, but the study began with: {began[name].identity}"
        for name, source in sources.items()
        if began[name].identity != source.identity
    ]
