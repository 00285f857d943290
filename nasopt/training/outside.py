"""Models that were made elsewhere, as candidates: as they are, or trained as long as the study's base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.architecture.outside import OutsideArchitecture, OutsideModel
from nasopt.errors import UnsupportedModelError
from nasopt.models.outside import outside_architecture
from nasopt.records.outside import OutsideRecipe
from nasopt.training.candidate import Candidate, Lineage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.tasks.base import Task
    from nasopt.training.context import Context


def outside_candidate(recipe: OutsideRecipe, context: Context) -> Candidate:
    """The model of a recipe, which is trained now if it is to be, with the settings of `[base_training]`.

    Raises:
        UnsupportedModelError: it is not there any more, or not the same any more.
    """
    from nasopt.tasks.datasets import content_hash
    from nasopt.training.loop import train

    found = content_hash(recipe.model.source)
    if found is not None and found != recipe.content:
        raise UnsupportedModelError(f"model {recipe.model.source!r}: it has changed since it was added")
    view, config = context.view_of(recipe.model), context.config
    candidate = Candidate(*load(recipe.model, view.task, config.seed), Lineage())
    if not recipe.epochs:
        return candidate
    taken = train(
        candidate.model,
        view.splits["train"],
        view.task.training_loss,
        config.base_training.model_copy(update={"epochs": recipe.epochs}),
        device=context.device,
        seed=config.seed,
        on_step=lambda done, total: context.on_phase("training", done, total),
    )
    candidate.training = taken.to_dict()
    cost = context.epoch_cost(candidate.architecture, candidate.model)
    candidate.lineage = candidate.lineage.trained("finetune", recipe.epochs, cost)
    return candidate


def load(origin: OutsideModel, task: Task, seed: int) -> tuple[PreTrainedModel, OutsideArchitecture]:
    """A model as it comes, in eval mode, and its shape.

    Args:
        origin: where it comes from.
        task: the task for this model, as :meth:`nasopt.tasks.base.Task.for_model` gives it.
        seed: decides the weights of a new head.

    Raises:
        UnsupportedModelError: it lacks weights, or has others than its configuration says.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # as the base model's new head is drawn
        model = task.load_model().eval()
    return model, outside_architecture(model, origin)
