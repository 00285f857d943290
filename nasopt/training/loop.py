"""The one training loop.

Fast by construction: batches of about equal length (little padding), bf16 autocast where the device computes in it,
a fused optimizer, no gradients for what is frozen. What is trained towards is a function of the caller's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler

from nasopt.config import TrainingConfig
from nasopt.errors import TrainingDivergedError
from nasopt.measurement.device import supports_bf16
from nasopt.tasks.batches import Batch, EncodedSplit, training_batches

LossFunction = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> scalar loss, averaged over the batch."""
StepCallback = Callable[[int, int], None]
"""(optimizer steps done, optimizer steps in all)."""

FINITE_CHECK_STEPS = 20
"""On a GPU, looking at a loss waits for it: look at the sum of this many."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training took."""

    steps: int
    tokens: int
    seconds: float
    loss: float
    """Mean over the last epoch."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def train(
    model: PreTrainedModel,
    split: EncodedSplit,
    loss_function: LossFunction,
    settings: TrainingConfig,
    *,
    device: torch.device,
    seed: int,
    on_step: StepCallback | None = None,
) -> TrainingResult:
    """Trains the model in place, on `device`, and leaves it in eval mode.

    The global random state is as before afterwards.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    model.to(device).train()
    steps_per_epoch = math.ceil(math.ceil(len(split) / settings.batch_size) / settings.accumulation)
    total_steps = steps_per_epoch * settings.epochs
    optimizer = _optimizer(model, settings, device)
    warmup = round(settings.warmup * total_steps)
    scheduler = get_scheduler(settings.scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)
    started = time.perf_counter()
    done = 0
    loss = math.nan
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)
        for _ in range(settings.epochs):
            batches = training_batches(split.lengths, settings.batch_size, generator)
            watch = _LossWatch(device)
            for group in _chunks(batches, settings.accumulation):
                _step(model, optimizer, [split.batch(indices) for indices in group], loss_function, settings, watch)
                scheduler.step()
                done += 1
                if on_step is not None:
                    on_step(done, total_steps)
            loss = watch.mean()
    model.eval()
    return TrainingResult(done, split.total_tokens * settings.epochs, time.perf_counter() - started, loss)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    loss_function: LossFunction,
    settings: TrainingConfig,
    watch: _LossWatch,
) -> None:
    """One optimizer step over the gradients of some batches."""
    optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        with autocast(watch.device):
            loss = loss_function(model, batch.to(watch.device))
        (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
        watch.add(loss.detach())
    nn.utils.clip_grad_norm_(
        [parameter for parameter in model.parameters() if parameter.requires_grad], settings.gradient_clipping
    )
    optimizer.step()


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the device is fast in it. For training and for teachers, never for evaluation or measurement."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=supports_bf16(device))


def _optimizer(model: PreTrainedModel, settings: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; biases and LayerNorms (vectors) do not decay."""
    model.get_input_embeddings().requires_grad_(not settings.freeze_word_embeddings)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _chunks(batches: list[Tensor], size: int) -> list[list[Tensor]]:
    return [batches[start : start + size] for start in range(0, len(batches), size)]


class _LossWatch:
    """Sums losses and looks now and then whether they are still finite."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sum = torch.zeros((), device=device)
        self._count = 0

    def add(self, loss: Tensor) -> None:
        self._sum += loss.float()
        self._count += 1
        if self.device.type == "cpu" or self._count % FINITE_CHECK_STEPS == 0:
            self.mean()

    def mean(self) -> float:
        value = float(self._sum) / self._count
        if not math.isfinite(value):
            raise TrainingDivergedError(f"the loss became {value} after {self._count} batches; lower the learning rate")
        return value
