"""The weights of a Taylor student: cut out of the base model, then distilled from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasopt.config.study import TrainingConfig
from nasopt.methods.taylor.options import SEARCHED, TaylorOptions
from nasopt.training.weights import Cut, Stage, Trained

if TYPE_CHECKING:
    from nasopt.training.context import Context
    from nasopt.training.loop import LossFunction
    from nasopt.training.samples import SampleSettings

FOLDER = "taylor"
"""The method's folder, below a study's artifact folder."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a student's training, which are searched, fixed, or the study's."""

    learning_rate: float
    ranking_weight: float
    output_weight: float
    epochs: int

    @classmethod
    def of(cls, params: Mapping[str, Any], options: TaylorOptions, training: TrainingConfig) -> Recipe:
        """The recipe that parameters (or a control's recipe) describe; `epochs` may be among them."""
        chosen = {name: params.get(name, getattr(options, name)) for name in SEARCHED}
        chosen["learning_rate"] = chosen["learning_rate"] or training.learning_rate
        return cls(**chosen, epochs=params.get("epochs", training.epochs))


def study_folder(context: Context) -> Path:
    """The folder in which the method keeps what it makes once per study."""
    return context.folder / FOLDER


def sample_settings(examples: int, context: Context) -> SampleSettings:
    """A sample of the training split, the same at every call."""
    from nasopt.training.samples import SampleSettings

    return SampleSettings(examples, context.config.training.batch_size, context.config.seed)


def distilled(recipe: Recipe, options: TaylorOptions, context: Context) -> Trained:
    """A student cut from the base model and distilled.

    The seed is the study's, so that students and controls see the same batches in the same order.
    """
    stage = Stage(
        "distill",
        recipe.epochs,
        context.config.seed,
        lambda context: matching_loss(recipe, options, context),
        recipe.learning_rate,
    )
    return Trained(Cut(options.reconstruction_examples), [stage])


def matching_loss(recipe: Recipe, options: TaylorOptions, context: Context) -> LossFunction:
    """The loss that a student is trained with."""
    from nasopt.methods.taylor.estimates import teacher_vectors
    from nasopt.methods.taylor.matching import HiddenMatching, LogitMatching, MatchingWeights, VectorMatching

    weights = MatchingWeights(recipe.ranking_weight, recipe.output_weight, options.hidden_weight)
    task, layers = context.task, options.hidden_layers if weights.hidden else ()
    hidden = HiddenMatching(layers, context.teachers(layers)) if layers else None
    embedding = task.embedding
    if embedding is None:
        return LogitMatching(task, weights, context.teachers(layers)[0], hidden)
    settings = task.config.similarity
    vectors = teacher_vectors(
        context.base_model,
        context.splits["train"],
        embedding.vectors,
        embedding.run,
        folder=study_folder(context),
        identity=f"{context.base_key} {embedding.pooling} {settings.normalize}",
        device=context.device,
        on_step=lambda done, total: context.on_phase("teacher outputs", done, total),
    )
    return VectorMatching(embedding, weights, vectors, hidden)
