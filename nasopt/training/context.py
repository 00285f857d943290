"""The context of a study's trials: models, data and stores that they share, and the trial that is under way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.architecture.outside import OutsideArchitecture, OutsideModel
from nasopt.config.study import StudyConfig
from nasopt.training.candidate import Lineage

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nasopt.storage.checkpoints import CheckpointStore
    from nasopt.tasks.base import Task
    from nasopt.tasks.batches import Examples
    from nasopt.training.budget import Run
    from nasopt.training.teacher import Teacher

T = TypeVar("T")

PhaseCallback = Callable[[str, int, int], None]
"""(name of the phase, steps done, steps in all; 0 of 0 where that is not known)."""


@dataclass(frozen=True)
class View:
    """The data as a candidate reads them.

    Attributes:
        task: the study's, or that for a model that was made elsewhere.
        splits: by role, in the candidate's tokens.
        tokenizer: the candidate's, where it has another vocabulary than the task's model.
    """

    task: Task
    splits: Mapping[str, Examples]
    tokenizer: PreTrainedTokenizerBase | None = None


@dataclass(frozen=True)
class BaseTrial:
    """The study's base model as its trial 0 (or the first that completed) found it.

    Attributes:
        number: the trial's number.
        values: quality, latencies in ms, memory in MB.
        latencies: the record of each latency, by objective.
    """

    number: int
    values: tuple[float, ...]
    latencies: Mapping[str, Any]


@dataclass(frozen=True)
class Parent:
    """A trial whose weights another one may inherit.

    Attributes:
        number: the trial's number.
        checkpoint: the key of its weights, which may be gone.
        lineage: how they were trained.
    """

    number: int
    checkpoint: str
    lineage: Lineage


@dataclass
class Context:
    """The context of a study's trials, made once per process: what they share, and the trial that is under way.

    Attributes:
        config: the study's configuration.
        task: data, metric and loss.
        splits: the tokenised data by role (train, validation, maybe test).
        base_model: the trained base model, fp32; never changed, copy it.
        base_key: the key of the base model's checkpoint.
        shape: the base model's shape.
        checkpoints: weights of the trials.
        folder: the study's artifact folder.
        device: where candidates are trained and evaluated.
        on_phase: told the phase and the steps done in it.
        base: the base trial; None before it has completed.
        number: the number of the trial under way; -1 between trials.
        parent: the trial that the one under way descends from; None: the base model.
    """

    config: StudyConfig
    task: Task
    splits: Mapping[str, Examples]
    base_model: PreTrainedModel
    base_key: str
    shape: EncoderShape
    checkpoints: CheckpointStore
    folder: Path
    device: torch.device
    on_phase: PhaseCallback
    base: BaseTrial | None = None
    number: int = -1
    parent: Parent | None = None

    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def for_trial(self, number: int, parent: Parent | None) -> Context:
        """The same context for one trial; what has been made is shared."""
        return replace(self, number=number, parent=parent)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call with this key and kept in memory for all trials of the process.

        Args:
            key: names it, with all that it depends on besides the study's base model and data.
            make: makes it; others must not change it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    @property
    def base_lineage(self) -> Lineage:
        """The lineage of weights that come from the base model."""
        return Lineage(None if self.base is None else self.base.number)

    def epoch_cost(
        self, architecture: CandidateArchitecture, model: nn.Module | None = None, run: Run | None = None
    ) -> float:
        """The cost of an epoch of a candidate in a budget: the training examples, times its share of the base's FLOPs.

        Args:
            architecture: the candidate's.
            model: the candidate; one of that architecture is made, and thrown away, if none is given.
            run: makes one pass over a batch, inputs (B, T); the task's if None.
        """
        from nasopt.models.building import build
        from nasopt.training.budget import pass_flops

        split = self.splits["train"]
        whole = self.once(("flops", self.base_key), lambda: pass_flops(self.base_model, split, self.task.run))
        candidate = build(architecture, copy.deepcopy(self.base_model)) if model is None else model
        view = self.view(architecture)
        flops = pass_flops(candidate, view.splits["train"], run or view.task.run)
        return len(split) * flops / whole

    def view(self, architecture: CandidateArchitecture) -> View:
        """The splits tokenised for a candidate: the base model's, unless it has a vocabulary of its own.

        A batch of either has inputs of shape (B, T), B examples of T tokens.
        """
        from nasopt.models.vocabulary import cut_tokenizer

        if isinstance(architecture, OutsideArchitecture):
            return self.view_of(architecture.model)
        kept = getattr(architecture, "vocabulary", None)
        if kept is None:
            return View(self.task, self.splits)

        def make() -> View:
            tokenizer = cut_tokenizer(self.task.tokenizer, kept)
            return View(self.task, self.task.encode(self.folder / "data", tokenizer), tokenizer)

        return self.once(("view", kept), make)

    def view_of(self, model: OutsideModel) -> View:
        """The splits tokenised for a model that was made elsewhere, with the task that loads and evaluates it."""

        def make() -> View:
            task = self.task.for_model(model)
            return View(task, task.encode(self.folder / "data"))

        return self.once(("view", model), make)

    def teachers(self, layers: Sequence[int] = (-1,)) -> list[Teacher]:
        """The base model's outputs on the training split: logits and the hidden states of `layers` (0: embeddings).

        There is one teacher for each side of an example (see :class:`nasopt.tasks.batches.Examples`). For a batch of B
        texts of T tokens it gives logits (B, C), or (B, T, C) if each token has a class, and hidden states
        (layers, B, T, H).
        """
        from nasopt.training.teacher import make_teacher

        wanted = tuple(layers)

        def make() -> list[Teacher]:
            sides = self.splits["train"].sides
            return [
                make_teacher(
                    self.base_model,
                    side,
                    self.folder / "teacher",
                    self.base_key,
                    num_outputs=self.task.num_outputs,
                    of_tokens=self.task.tags_tokens,
                    layers=wanted,
                    device=self.device,
                    max_bytes=self.config.teacher_cache_mb * 10**6 // len(sides),
                    on_step=lambda done, total: self.on_phase("teacher outputs", done, total),
                )
                for side in sides
            ]

        return self.once(("teachers", wanted), make)
