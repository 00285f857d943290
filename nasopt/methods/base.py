"""What a method is: options, a sampler, and how a trial's parameters become a trained candidate.

A new method is one file in this folder (and one sampler, if Optuna's do not serve), named in the entry-point group
``nasopt.methods``. Importing a method must not import torch: heavy imports belong inside its functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision, Training
from nasopt.architecture.encoder import Architecture
from nasopt.config.task import TaskType
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context

if TYPE_CHECKING:
    import torch
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial
    from transformers import PreTrainedModel

    from nasopt.methods.bayesian.trajectory import Trajectory
    from nasopt.tasks.base import Task
    from nasopt.training.loop import LossFunction


@dataclass(frozen=True)
class Control:
    """A model that needs no search, made with the budget of one that was found, to be compared with it.

    Attributes:
        label: what a reader is shown, for example ``first-3``. Controls may share one (stored in another precision,
            trained for another number of epochs).
        recipe: a small JSON object with everything that :meth:`Method.build_control` needs. Equal recipes are the same
            control, which a study makes once.
        depth: how many layers it keeps, comparable with :meth:`Method.depth`; None where it has no such thing.
    """

    label: str
    recipe: dict[str, Any]
    depth: int | None = None


class Method(ABC):
    """One way to search. Instances are cheap and hold no state of a study."""

    name: ClassVar[str]
    task_types: ClassVar[tuple[TaskType, ...]] = ("text-classification", "sentence-similarity", "translation")
    searches: ClassVar[str]
    """What it searches, for `nasopt methods`."""
    options_model: ClassVar[type[BaseModel]]
    path_options: ClassVar[tuple[str, ...]] = ()
    """Options that are lists of files: stored as absolute paths when a study is created."""

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Takes an instance of `options_model`."""

    @property
    @abstractmethod
    def budget(self) -> int:
        """How many trials a whole search takes, base and controls not counted."""

    @property
    def target_quality(self) -> float | None:
        """Stop after the first trial that reaches this and is smaller and faster than the base model."""
        return None

    @abstractmethod
    def sampler(self, seed: int | None) -> BaseSampler:
        """The sampler that proposes trials, unless the user passes another."""

    def check(self, task: Task) -> None:  # noqa: B027
        """Refuses what can be known to fail before anything is trained.

        Raises:
            StudyFileError: an option does not fit the base model.
        """

    def base_recorder(self, model: PreTrainedModel, folder: Path) -> Trajectory | None:
        """What watches the training of the base model; None where the method needs nothing of it.

        Args:
            model: as it is going to be trained.
            folder: the study's artifact folder.
        """
        return None

    def prepare(self, study: Study, context: Context) -> None:  # noqa: B027
        """What the trials need once per study, beside the base model. Called after trial 0, before any other."""

    @abstractmethod
    def base_params(self, shape: EncoderShape) -> dict[str, Any]:
        """The parameters of trial 0, the base model; empty if it lies outside what the method searches."""

    @abstractmethod
    def suggest(self, trial: Trial, shape: EncoderShape) -> dict[str, Any]:
        """The trial's parameters."""

    @abstractmethod
    def build(self, trial: Trial, params: Mapping[str, Any], context: Context) -> Candidate:
        """Turns the trial's parameters, which are not the base model's, into a trained candidate.

        Raises:
            RejectedCandidateError: it breaks a constraint that needs no training to be known.
        """

    def loss(self, training: Training, context: Context) -> LossFunction:
        """What a kind of training minimises: the task's loss, unless a method that distils says more.

        Raises:
            ValueError: the method does not train that way.
        """
        if training != "finetune":
            raise ValueError(f"{self.name} does not train by {training!r}")
        return context.task.training_loss

    def train(
        self,
        candidate: Candidate,
        training: Training,
        epochs: int,
        seed: int,
        context: Context,
        *,
        loss: LossFunction | None = None,
        learning_rate: float | None = None,
    ) -> None:
        """Trains a candidate in place, with the study's `[training]` settings but for `epochs`.

        What is minimised is `loss`, or that of the kind of training. Its lineage gets the epochs, its `training` what
        they took (added to what earlier calls took).
        """
        from nasopt.training.loop import train

        if epochs == 0:
            return
        settings = context.config.training
        changes = {"epochs": epochs, "learning_rate": learning_rate or settings.learning_rate}
        taken = train(
            candidate.model,
            context.view(candidate.architecture).splits["train"],
            loss or self.loss(training, context),
            settings.model_copy(update=changes),
            device=context.device,
            seed=seed,
            on_step=lambda done, total: context.on_phase("training", done, total),
        ).to_dict()
        sums = {name: taken[name] + candidate.training.get(name, 0) for name in ("steps", "tokens", "seconds")}
        candidate.training = {**taken, **sums}
        lineage = candidate.lineage
        candidate.lineage = replace(
            lineage,
            finetune_epochs=lineage.finetune_epochs + (epochs if training == "finetune" else 0),
            distill_epochs=lineage.distill_epochs + (epochs if training == "distill" else 0),
        )

    def depth(self, params: Mapping[str, Any]) -> int | None:
        """Layers that a genotype keeps; None where depth says nothing of it. Members are compared at equal depth."""
        layers = [value for name, value in params.items() if name.startswith("layer_")]
        return sum(layers) if layers else None

    @property
    def precisions(self) -> Sequence[Precision]:
        """In which a search stores models, as far as that is known before it: fp32 unless a method says more."""
        return ("fp32",)

    def controls(
        self, members: Sequence[FrozenTrial], shape: EncoderShape, random_masks: int, seed: int
    ) -> list[Control]:
        """What `nasopt study controls` compares the members of the Pareto front with.

        By default layers cut from the base model: the first, the last, evenly spaced and random ones, as many as a
        member keeps, in its precision and trained for as many epochs (see :mod:`nasopt.methods.layer_controls`).

        Args:
            members: complete feasible trials, without the base model. Precision, depth and the epochs of their lineage
                (`finetune_epochs`, `distill_epochs`) are in their user attributes and parameters.
            shape: the base model's.
            random_masks: how many random ones each depth gets; those of fewer are among those of more.
            seed: the study's.

        Returns:
            Controls with different recipes, in the order in which to make them.
        """
        from nasopt.methods.layer_controls import budgets_of, layer_controls

        return layer_controls(budgets_of(self, members), shape.num_layers, random_masks, seed)

    def build_control(self, recipe: Mapping[str, Any], trial: Trial, context: Context) -> Candidate:
        """Makes the control of a recipe, trained; called as :meth:`build` is, for a trial without parameters.

        The seed of training is the study's, so that controls see the same batches in the same order.
        """
        from nasopt.methods.layer_controls import build_layers

        return build_layers(self, recipe, trial, context)

    def constraints(self, metric: str, quality: float, parameters: int) -> dict[str, float]:
        """By name, above 0 where a candidate of that quality (in that metric) and so many weights violates it."""
        return {}

    def module(self, architecture: CandidateArchitecture, task: Task) -> PreTrainedModel:
        """A model of that architecture, with any weights: a checkpoint's are loaded into it."""
        from nasopt.models.surgery import cut

        assert isinstance(architecture, Architecture)
        return cut(task.load_model(), architecture)

    def quantize(self, candidate: Candidate, device: torch.device) -> PreTrainedModel:
        """The artifact that is measured and exported: a copy of the candidate in its precision, on `device`."""
        from nasopt.models.quantization import quantize

        return quantize(candidate.model, candidate.architecture.precision, device)

    def parents(self, study: Study) -> Sequence[FrozenTrial]:
        """Trials that may still become parents, so that their checkpoints are kept."""
        return ()

    def scores(self, study: Study, values: Sequence[float], parameters: int) -> dict[str, float]:
        """Scalar scores of a trial with these values and so many weights, stored beside its objectives."""
        return {}

    def record(self, study: Study) -> dict[str, Any]:
        """What `nasopt study show` tells of a study beside what it tells of every method's."""
        return {}
