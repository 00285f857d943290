"""Evaluating a candidate: quality, latencies and memory of the very artifact that `export` would write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasopt.measurement.inputs import fixed_batch
from nasopt.measurement.sources import LatencySource
from nasopt.methods.base import Quantizer
from nasopt.records.latency import Latencies
from nasopt.records.trial import MemoryRecord
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context
from nasopt.trial.artifact import make_artifact, make_onnx, size_mb
from nasopt.trial.devices import artifact_kind, running_device
from nasopt.trial.subject import subject_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from nasopt.models.onnx import OnnxModel
    from nasopt.tasks.base import Evaluation
    from nasopt.trial.screening import Screening


@dataclass(frozen=True)
class Measured:
    """What a candidate costs.

    Attributes:
        latencies: the stored record of each latency, by objective.
        memory: the memory of the weights and the peak of one pass, in MB, and where they were measured.
        memory_objective: which of them is the objective, `weights` or `peak`.
        parameters: number of its weights.
        flops: floating-point operations of one forward pass of the first latency's batch.
    """

    latencies: Latencies
    memory: MemoryRecord
    memory_objective: str
    parameters: int
    flops: int

    @property
    def costs(self) -> tuple[float, ...]:
        """The objectives but the quality: latencies in ms, memory in MB."""
        latencies = [item.value_ms for item in self.latencies.values()]
        return (*latencies, self.memory.peak_mb if self.memory_objective == "peak" else self.memory.weights_mb)


@dataclass(frozen=True)
class Evaluated(Measured):
    """The findings about a candidate.

    Attributes:
        evaluation: its quality, and the values by which two models are compared.
    """

    evaluation: Evaluation

    @property
    def values(self) -> tuple[float, ...]:
        """The objectives: quality, latencies in ms, memory in MB."""
        return (self.evaluation.quality, *self.costs)


def evaluate(
    candidate: Candidate,
    context: Context,
    sources: Mapping[str, LatencySource],
    quantizer: Quantizer | None,
    screening: Screening | None = None,
) -> Evaluated:
    """Evaluates and measures the artifact of a candidate.

    Where it is screened, a part of the validation split comes first, then its costs, and the rest only if it passes.

    Args:
        candidate: trained, fp32.
        context: the study's data and base model.
        sources: the latency sources, by objective, in their order.
        quantizer: see :func:`nasopt.trial.artifact.make_artifact`.
        screening: the candidate's; None if it has none.

    Raises:
        ValueError: the quality is not finite.
        ScreenedCandidateError: it is shown to be worse than a trial that costs no more.
    """
    from nasopt.tasks.batches import EncodedSplit

    artifact, device = _artifact(candidate, context, sources, quantizer)
    # NOTE: memory first: the first forward pass of an nf4 model repacks its weights in place.
    weights = size_mb(artifact)

    def quality(positions: Tensor | None) -> Evaluation:
        context.on_phase("evaluating", 0, 0)
        view = context.view(candidate.architecture)
        split = view.splits["validation"]
        if positions is not None:
            assert isinstance(split, EncodedSplit)  # as the base model's is, or there would be no screening
            split = split.select(positions)
        return view.task.evaluate(artifact, split, device, view.tokenizer)

    def costs() -> Measured:
        context.on_phase("measuring", 0, 0)
        return _measured(candidate, artifact, weights, device, context, sources, quantizer)

    evaluation, measured = _whole(quality, costs) if screening is None else _screened(quality, costs, screening)
    return Evaluated(**vars(measured), evaluation=evaluation)


def _artifact(
    candidate: Candidate, context: Context, sources: Mapping[str, LatencySource], quantizer: Quantizer | None
) -> tuple[PreTrainedModel | OnnxModel, torch.device]:
    """The candidate's artifact on the device on which it is evaluated."""
    kind = artifact_kind(sources.values(), candidate.architecture.precision)
    device = running_device(sources.values(), kind)
    if kind.form == "torch":
        return make_artifact(candidate, device, quantizer), device
    view = context.view(candidate.architecture)
    training, names = view.splits["train"], view.task.tokenizer.model_input_names
    file = make_onnx(candidate, kind, names, training, context.config.calibration_texts)
    return file.opened(None, device), device


def _whole(
    quality: Callable[[Tensor | None], Evaluation], costs: Callable[[], Measured]
) -> tuple[Evaluation, Measured]:
    evaluation = _finite(quality(None))
    return evaluation, costs()


def _screened(
    quality: Callable[[Tensor | None], Evaluation], costs: Callable[[], Measured], screening: Screening
) -> tuple[Evaluation, Measured]:
    # The part comes before the costs because peak memory is that of a model that has run before.
    part, measured = quality(screening.part).outputs, costs()
    if part is None:  # a task of another package that keeps none
        return _finite(quality(None)), measured
    screening.check(measured.costs, part)
    rest = quality(screening.rest).outputs
    assert rest is not None
    return _finite(screening.joined(part, rest)), measured


def _finite(evaluation: Evaluation) -> Evaluation:
    if not math.isfinite(evaluation.quality):
        raise ValueError(f"the quality is {evaluation.quality}")
    return evaluation


def _measured(
    candidate: Candidate,
    artifact: PreTrainedModel | OnnxModel,
    weights: float,
    device: torch.device,
    context: Context,
    sources: Mapping[str, LatencySource],
    quantizer: Quantizer | None,
) -> Measured:
    from nasopt.measurement.measured.flops import count_flops

    memory = measure_memory(artifact, weights, device, candidate, context)
    latencies = _latencies(artifact, device, candidate, context, sources, quantizer)
    task = context.view(candidate.architecture).task
    batch = fixed_batch(context.config.latency[0], candidate.model, task.tokenizer.all_special_ids)
    return Measured(
        latencies,
        memory,
        context.config.memory,
        candidate.model.num_parameters(),
        count_flops(task.workload(candidate.model), batch),
    )


def measure_memory(
    artifact: PreTrainedModel | OnnxModel, weights: float, device: torch.device, candidate: Candidate, context: Context
) -> MemoryRecord:
    """The memory of an artifact: its weights, and the highest use in one pass of the first latency's fixed shape.

    That pass of an ONNX file is looked at on the CPU, with ONNX Runtime's arena off: the arena keeps what it has once
    taken, so that a second pass would seem to need nothing.

    Args:
        artifact: torch modules on `device`, or an ONNX file.
        weights: its size in MB.
        device: where torch modules run.
        candidate: the candidate itself.
        context: the study's settings and task.
    """
    import torch

    from nasopt.measurement.device import device_name
    from nasopt.measurement.measured.memory import peak_memory_mb
    from nasopt.models.onnx import OnnxModel

    task = context.view(candidate.architecture).task
    batch = fixed_batch(context.config.latency[0], candidate.model, task.tokenizer.all_special_ids)
    if isinstance(artifact, OnnxModel):
        device = torch.device("cpu")
        model: nn.Module = artifact.opened(context.config.latency[0].threads, device, arena=False)
    else:
        model = task.workload(artifact)
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    peak = peak_memory_mb(model, inputs, weights, device)
    return MemoryRecord(weights, peak, device_name(device), "onnx" if isinstance(artifact, OnnxModel) else None)


def _latencies(
    artifact: PreTrainedModel | OnnxModel,
    device: torch.device,
    candidate: Candidate,
    context: Context,
    sources: Mapping[str, LatencySource],
    quantizer: Quantizer | None,
) -> Latencies:
    from nasopt.models.onnx import OnnxModel

    latencies = {}
    for position, (name, source) in enumerate(sources.items(), start=1):
        if source.device != device and not isinstance(artifact, OnnxModel):
            # Made afresh, not moved: a bitsandbytes model that has run stays behind in part.
            artifact, device = make_artifact(candidate, source.device, quantizer), source.device
        reference = None if context.base is None else context.base.values[position]
        latencies[name] = source.record(subject_of(artifact, candidate, context), reference)
    return latencies
