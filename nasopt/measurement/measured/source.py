"""Latencies that are measured on the device at hand."""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.config.study import LatencyConfig
from nasopt.host.files import scratch_folder
from nasopt.measurement.device import device_name, driver_version
from nasopt.measurement.inputs import inputs_of
from nasopt.measurement.measured.latency import measure_latency, normalised_ms
from nasopt.measurement.measured.runtimes import RuntimeSettings, check_runtime, forget_compiled, numerics, prepare
from nasopt.measurement.subject import Subject
from nasopt.models.example_inputs import input_names
from nasopt.models.onnx import OnnxModel, convert
from nasopt.records.latency import MeasuredLatency, measured_identity


class MeasuringSource:
    """Latencies measured on the device at hand, in alternation with the base model in the same runtime."""

    def __init__(self, latency: LatencyConfig, device: torch.device) -> None:
        self.latency = latency
        self.device = device
        assert latency.runtime != "tensorrt"
        threads = latency.threads or os.cpu_count() or 1
        self.settings = RuntimeSettings(latency.runtime or "eager", threads, latency.tf32, latency.cuda_graph)
        check_runtime(self.settings.runtime, device)
        self._base: tuple[object, nn.Module] | None = None

    @property
    def runtime(self) -> str:
        return self.settings.runtime

    @property
    def identity(self) -> str:
        return measured_identity(device_name(self.device), self.settings.threads, self.device.type == "cuda")

    def record(self, subject: Subject, reference_ms: float | None) -> MeasuredLatency:
        """The measured latency; see :class:`nasopt.measurement.sources.LatencySource`.

        Raises:
            MeasurementError: a time was zero or not finite.
        """
        latency, settings = self.latency, self.settings
        batches = inputs_of(latency, subject, self.device)
        with numerics(settings):
            base = self._base_model(batches, subject)
            artifact = subject.artifact
            workload = artifact if isinstance(artifact, OnnxModel) else subject.workload(artifact)
            model = prepare(workload, batches, settings, device=self.device)
            measurement = measure_latency(model, base, batches, device=self.device, threads=settings.threads)
        reference = measurement.base_median_ms if reference_ms is None else reference_ms
        return MeasuredLatency(
            value_ms=normalised_ms(measurement.ratio, reference),
            **measurement.to_dict(),
            device=device_name(self.device),
            driver=driver_version(self.device),
            torch_version=str(torch.__version__),
            dtype=subject.architecture.precision,
            threads=settings.threads,
            batch_size=latency.batch_size,
            sequence_length=latency.sequence_length,
            runtime=settings.runtime,
            **_details(latency, settings, batches),
        )

    def _base_model(self, batches: Sequence[Mapping[str, Tensor]], subject: Subject) -> nn.Module:
        """The base model in the runtime. ONNX files are converted once for a process; compiled programs are made again,
        because `torch.compile` keeps only so many of one class."""
        settings = self.settings
        if settings.runtime == "compile":
            forget_compiled()
        if settings.runtime == "onnxruntime":
            assert isinstance(subject.artifact, OnnxModel)
            names = input_names(subject.base_model, subject.artifact.input_names)
            key = subject.base_key, *names
            if self._base is None or self._base[0] != key:
                self._base = key, prepare(_base_file(subject, names), batches, settings, device=self.device)
            return self._base[1]
        base = subject.workload(subject.base_model.to(self.device))
        return prepare(base, batches, settings, device=self.device)


def _base_file(subject: Subject, names: Sequence[str]) -> OnnxModel:
    """The base model in fp32 as an ONNX file with these inputs."""
    with scratch_folder() as folder:
        convert(copy.deepcopy(subject.base_model).cpu(), names, folder / "model.onnx")
        return OnnxModel(folder / "model.onnx")


def _details(
    latency: LatencyConfig, settings: RuntimeSettings, batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, Any]:
    """The fields of a record that are stored only where they differ from the usual values."""
    details: dict[str, Any] = {}
    if settings.runtime == "onnxruntime":
        details["runtime_version"] = version("onnxruntime")
    if latency.lengths == "validation":
        lengths = [batch["input_ids"].shape[1] for batch in batches]
        details |= {"lengths": "validation", "batches": len(batches), "mean_length": statistics.fmean(lengths)}
    details |= {name: True for name in ("tf32", "cuda_graph") if getattr(settings, name)}
    return details
