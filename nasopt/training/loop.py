"""The one training loop, with a loss function that the caller gives.

It is fast by construction: batches of about equal length (little padding), bf16 autocast where the device computes in
it, a fused optimizer, and no gradients for what is frozen.

Shapes: N examples in the split, B examples in a batch, T tokens (padding included).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from nasopt.config.study import TrainingConfig
from nasopt.errors import TrainingDivergedError
from nasopt.measurement.device import supports_bf16
from nasopt.tasks.batches import Examples, training_batches
from nasopt.training.state import TrainingState, load_state, save_state

LossFunction = Callable[[Any, Any], Tensor]
"""(model, batch of B examples) -> loss, a scalar of shape (), averaged over the batch."""
StepCallback = Callable[[int, int], None]
"""(optimizer steps done, optimizer steps in all)."""
EpochCallback = Callable[[TrainingState], None]
Passes = Callable[[Any], Iterable[Any]]
"""batch of B examples -> the modules that its loss is taken of, one after the other; all their gradients add up."""

FINITE_CHECK_STEPS = 20
"""Losses on a GPU that are summed before the sum is looked at, because looking waits for the GPU."""


@dataclass(frozen=True)
class TrainingResult:
    """The steps, tokens and seconds of a training, and its last loss."""

    steps: int
    tokens: int
    seconds: float
    loss: float
    """The mean over the last epoch."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SecondOptimizer:
    """Parameters that are trained apart from the others: the architecture's, while the network's learn.

    Adam with a constant learning rate and without decay steps after each step of the first optimizer.

    Attributes:
        parameters: those that it trains; the first optimizer leaves them alone.
        learning_rate: the constant learning rate.
        examples: positions in the split that its batches are made of, int64, (n,) with n <= N; None: it steps on the
            gradients of the first optimizer's batches.
        first_epoch: the epoch (0: the first one) before which these parameters stay as they are.
    """

    parameters: list[nn.Parameter]
    learning_rate: float
    examples: Tensor | None = None
    first_epoch: int = 0


def train(
    model: Any,
    split: Examples,
    loss_function: LossFunction,
    settings: TrainingConfig,
    *,
    device: torch.device,
    seed: int,
    on_step: StepCallback | None = None,
    examples: Tensor | None = None,
    second: SecondOptimizer | None = None,
    on_epoch: EpochCallback | None = None,
    start: TrainingState | None = None,
    passes: Passes | None = None,
) -> TrainingResult:
    """Trains the model in place, on `device`, and leaves it in eval mode.

    The global random state is restored afterwards.

    Args:
        model: one of transformers', or any module with a `get_input_embeddings` like theirs.
        split: the training split, of N examples; its batches have inputs of shape (B, T).
        loss_function: gives the loss that is minimised, a scalar of shape ().
        settings: epochs, batch size, learning rate and the like.
        device: where it is trained.
        seed: decides the order of the examples, and what the model draws.
        on_step: told after each step.
        examples: positions in the split that are trained on, int64, (n,) with n <= N; None for all.
        second: parameters with an optimizer of their own.
        on_epoch: given, after each epoch, the state to go on from (its tensors change with the next step).
        start: a state that `on_epoch` was given: training goes on there, and ends as if it had not stopped.
        passes: gives the modules whose losses on a batch are added up, such as parts of the model; what it draws from
            the global random state is drawn again after an interruption. None: the model alone.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    run = _Run(model, split, loss_function, settings, device, seed, examples, second, passes)
    started = time.perf_counter()
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)
        if start is not None:
            run.resume(start)
        for epoch in range(run.epochs_done, settings.epochs):
            run.epoch(epoch, on_step)
            if on_epoch is not None:
                on_epoch(run.state())
    model.eval()
    return TrainingResult(run.done, run.tokens * settings.epochs, time.perf_counter() - started, run.loss)


class _Run:
    """One training: its optimizers, the order of its examples, and how far it is."""

    def __init__(
        self,
        model: Any,
        split: Examples,
        loss_function: LossFunction,
        settings: TrainingConfig,
        device: torch.device,
        seed: int,
        examples: Tensor | None,
        second: SecondOptimizer | None,
        passes: Passes | None,
    ) -> None:
        self._split, self._loss_function, self._settings, self._second = split, loss_function, settings, second
        self._device = device
        self._model = model.to(device).train()
        self._passes = passes or (lambda batch: (self._model,))
        self._generator = torch.Generator().manual_seed(seed)
        self._examples = torch.arange(len(split)) if examples is None else examples
        self.tokens = int(split.lengths[self._examples].sum())
        steps = math.ceil(math.ceil(len(self._examples) / settings.batch_size) / settings.accumulation)
        self._total_steps = steps * settings.epochs
        self._first = _first_optimizer(model, settings, [] if second is None else second.parameters)
        self._other = None if second is None else _second_optimizer(second)
        self._scheduler = get_scheduler(
            settings.scheduler,
            self._first,
            num_warmup_steps=round(settings.warmup * self._total_steps),
            num_training_steps=self._total_steps,
        )
        self.done = 0
        self.epochs_done = 0
        self.loss = math.nan

    def epoch(self, epoch: int, on_step: StepCallback | None) -> None:
        """Trains on every example once."""
        watch = _LossWatch(self._device)
        together, others = [self._first], None
        if self._second is not None and self._other is not None and epoch >= self._second.first_epoch:
            if self._second.examples is None:
                together = [self._first, self._other]
            else:
                others = self._endless(self._second.examples)
        for group in _chunks(self._batches(self._examples), self._settings.accumulation):
            self._step(together, group, watch)
            self._scheduler.step()
            if others is not None and self._other is not None:
                self._step([self._other], [next(others)], _LossWatch(self._device))
            self.done += 1
            if on_step is not None:
                on_step(self.done, self._total_steps)
        self.loss = watch.mean()
        self.epochs_done = epoch + 1

    def state(self) -> TrainingState:
        """The state that :meth:`resume` needs, at the end of an epoch."""
        return save_state(self._model, self._optimizers(), self._generator, self._device, self.epochs_done, self.done)

    def resume(self, state: TrainingState) -> None:
        """Goes on where another run was at the end of an epoch."""
        load_state(state, self._model, self._optimizers(), self._generator, self._device)
        self.epochs_done, self.done = state.epochs, state.steps
        self._scheduler.last_epoch = state.steps
        rates = zip(self._scheduler.base_lrs, self._scheduler.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self._first.param_groups, rates, strict=True):
            group["lr"] = base * factor(state.steps)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [item for item in (self._first, self._other) if item is not None]

    def _batches(self, examples: Tensor) -> list[Tensor]:
        """Positions in the split, (B,) for each batch, in batches of about equal length."""
        lengths = self._split.lengths[examples]
        return [examples[batch] for batch in training_batches(lengths, self._settings.batch_size, self._generator)]

    def _endless(self, examples: Tensor) -> Iterator[Tensor]:
        while True:
            yield from self._batches(examples)

    def _step(self, optimizers: list[torch.optim.Optimizer], batches: list[Tensor], watch: _LossWatch) -> None:
        """One step of each optimizer over the gradients of some batches."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for indices in batches:
            batch = self._split.batch(indices).to(self._device)
            losses = torch.zeros((), device=self._device)
            for module in self._passes(batch):
                with autocast(self._device):
                    loss = self._loss_function(module, batch)
                (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
                losses = losses + loss.detach().float()
            watch.add(losses)
        for optimizer in optimizers:
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(trained, self._settings.gradient_clipping)
            optimizer.step()


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to bf16 where the device is fast in it; for training and teachers, never for evaluation or measurement.

    Matrix products within it give bf16 tensors, whose shapes are the same.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=supports_bf16(device))


def _first_optimizer(model: Any, settings: TrainingConfig, apart: Collection[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over all trained parameters except those that are `apart`; biases and LayerNorms (vectors) do not decay."""
    model.get_input_embeddings().requires_grad_(not settings.freeze_word_embeddings)
    others = {id(parameter) for parameter in apart}
    trainable = [
        parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in others
    ]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _second_optimizer(second: SecondOptimizer) -> torch.optim.Optimizer:
    # NOTE: decay would pull the architecture's parameters towards a uniform choice.
    return torch.optim.AdamW(second.parameters, lr=second.learning_rate, weight_decay=0.0)


def _chunks(batches: list[Tensor], size: int) -> list[list[Tensor]]:
    return [batches[start : start + size] for start in range(0, len(batches), size)]


class _LossWatch:
    """Sums losses and looks now and then whether they are still finite."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sum = torch.zeros((), device=device)
        self._count = 0

    def add(self, loss: Tensor) -> None:
        self._sum += loss
        self._count += 1
        if self.device.type == "cpu" or self._count % FINITE_CHECK_STEPS == 0:
            self.mean()

    def mean(self) -> float:
        value = float(self._sum) / self._count
        if not math.isfinite(value):
            raise TrainingDivergedError(f"the loss became {value} after {self._count} batches; lower the learning rate")
        return value
