"""The weight sources of the Bayesian method's students: the conditioned posterior, or other starts."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Training
from nasopt.architecture.encoder import Architecture
from nasopt.methods.bayesian.options import BayesianOptions, ObjectiveName, StartName, StructureName
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.weights import Cut, WeightSource
from nasopt.training.weights.source import genotype_key

if TYPE_CHECKING:
    from nasopt.methods.bayesian.aligned import Aligned, StudentTraining
    from nasopt.training.context import Context

DISTANCES = "distance_to_zero"
"""The trial user attribute that holds m_1^T S_11^-1 m_1 over the number of weights that each removed layer writes with.
"""
VALIDATION_LOSSES = "validation_losses"
"""The trial user attribute that holds the task's loss on the validation split before training and after each epoch."""
ZEROED_LOSS = "validation_loss_zeroed"
"""The trial user attribute, for post-norm models, that holds the loss of the base model whose removed layers write
zeros, before training. Its difference from the first of the losses is the effect of leaving out the layers' norms."""


@dataclass(frozen=True)
class Conditioned(WeightSource):
    """The mean of the base model's posterior, given that the removed layers write zeros; then trained.

    Attributes:
        structure: the structure of the posterior's covariance.
        training: how the student is trained.
        posterior_epochs: epochs of further training, assumed where an older posterior does not say how many.
        is_base: whether the parameters are the base trial's, which stand for the base model itself, untrained.
    """

    structure: StructureName
    training: StudentTraining
    posterior_epochs: int
    is_base: bool = False

    def work(self, params: Mapping[str, Any]) -> Hashable:
        """The genotype without the parameters that change no weight.

        `hinton` without soft targets is `ce`. The prior matters to `map` and `elbo` only; other objectives know the
        posterior by where the student starts, and where no layer goes both structures with a covariance start at their
        mean.
        """
        if self.is_base:
            return "base", genotype_key(params)
        matters, objective = dict(params), self.training.objective
        if objective == "hinton" and self.training.soft_weight == 0:
            objective = matters["objective"] = "ce"
        if objective not in ("map", "elbo"):
            matters.pop("prior_strength", None)
            removes = any(not value for name, value in params.items() if name.startswith("layer_"))
            if self.structure == "low_rank" and not removes:
                matters["posterior"] = "diagonal"
        return genotype_key(matters)

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        from nasopt.methods.bayesian.aligned import align, mean_loss, zeroed_model
        from nasopt.methods.bayesian.trajectory import posterior_path
        from nasopt.models.families import family_of

        assert isinstance(architecture, Architecture)
        kept = architecture.kept_layers
        removed = [layer for layer in range(context.shape.num_layers) if layer not in kept]
        path = posterior_path(context.folder, context.base_key)
        aligned = align(context.base_model, path, self.structure, removed)
        candidate = Candidate(aligned.model, architecture, self._lineage(path, context))
        candidate.details[DISTANCES] = aligned.distances
        if not family_of(context.base_model).is_pre_norm and removed:
            # The LayerNorms of a layer that writes zeros stay in the stream: leaving them out too costs something.
            zeroed = zeroed_model(context.base_model, aligned, removed).to(context.device)
            loss = mean_loss(context.task, zeroed, context.splits["validation"], context.device)
            candidate.details[ZEROED_LOSS] = loss
        _train(candidate, aligned, self.training, context, context.config.seed)
        return candidate

    def _lineage(self, path: Path, context: Context) -> Lineage:
        """The base model's line, with the epochs that a copy of it was trained to collect the posterior."""
        from nasopt.methods.bayesian.trajectory import epochs_since_base

        epochs = epochs_since_base(path)
        if epochs is None:
            is_further = context.task.has_head and not context.config.task.train_base
            epochs = self.posterior_epochs if is_further else 0
        return context.base_lineage.trained("finetune", epochs, len(context.splits["train"]))


@dataclass(frozen=True)
class OtherStart(WeightSource):
    """A control start: the base model's own weights or random ones, trained alike.

    Attributes:
        start: how random weights are drawn; None: the base model's are taken.
        seed: decides the random weights, the order of the examples and the draws of training.
        training: how the student is trained.
    """

    start: StartName | None
    seed: int
    training: StudentTraining

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        from nasopt.methods.bayesian.aligned import randomise

        candidate = Cut().candidate(architecture, context)
        if self.start is not None:
            candidate.model = randomise(candidate.model, self.start, self.seed)
        _train(candidate, None, self.training, context, self.seed)
        return candidate


def student_training(
    objective: ObjectiveName,
    prior_strength: float,
    learning_rate: float | None,
    options: BayesianOptions,
    context: Context,
) -> StudentTraining:
    """The training of a student, with the study's learning rate if none is given."""
    from nasopt.methods.bayesian.aligned import StudentTraining

    settings = context.config.training
    if learning_rate is not None:
        settings = settings.model_copy(update={"learning_rate": learning_rate})
    return StudentTraining(objective, settings, prior_strength, options.temperature, options.soft_weight)


def removed_layers(params: Mapping[str, Any], shape: EncoderShape) -> list[int]:
    """The layers that a genotype leaves out."""
    return [layer for layer in range(shape.num_layers) if not params[f"layer_{layer}"]]


def without(shape: EncoderShape, removed: Collection[int]) -> Architecture:
    """The base model without some layers."""
    return Architecture.masked(shape, [int(layer not in removed) for layer in range(shape.num_layers)])


def _train(
    candidate: Candidate, aligned: Aligned | None, training: StudentTraining, context: Context, seed: int
) -> None:
    """Trains a candidate in place; every student sees the same batches in the same order."""
    from nasopt.methods.bayesian.aligned import train_student

    result, losses = train_student(
        candidate.model,
        aligned,
        training,
        context.task,
        (context.splits["train"], context.splits["validation"]),
        teacher=context.base_model,
        device=context.device,
        seed=seed,
        on_step=lambda done, total: context.on_phase("training", done, total),
    )
    candidate.details[VALIDATION_LOSSES] = losses
    candidate.training = result.to_dict()
    kind: Training = "distill" if training.objective == "hinton" else "finetune"
    cost = context.epoch_cost(candidate.architecture, candidate.model)
    candidate.lineage = candidate.lineage.trained(kind, training.settings.epochs, cost)
