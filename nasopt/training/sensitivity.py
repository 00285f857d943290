"""The sensitivity of a study's base model to the loss of its units, found once and kept in the study's artifact folder.

Fisher information squares the derivatives of the task's loss on each training example (METHODS.md, section 6). A task
of vectors has the distance to the base model's instead, whose curvature is found without a loss: its ranking loss sets
the texts of a batch against each other, and a model that ranks them well has hardly any derivatives left. The optimal
brain surgeon reads the same examples.

Shapes: L layers, N units (heads or neurons) of one layer, B examples in a batch, T tokens (padding included).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.errors import DatasetError, StudyFileError, UnsupportedModelError
from nasopt.models.families import family_of
from nasopt.models.reconstruction import Forward
from nasopt.models.saliency import LossOfBatch, Saliency
from nasopt.models.sensitivity.calibration import Grams
from nasopt.models.sensitivity.correction import correct_projections
from nasopt.models.sensitivity.fisher import (
    COUPLING,
    fisher_information,
    order_by_fisher,
    random_projection,
)
from nasopt.models.sensitivity.gates import unit_blocks
from nasopt.models.sensitivity.obs import order_by_obs
from nasopt.models.sensitivity.values import BlockSensitivity, Sensitivity
from nasopt.tasks.base import Task
from nasopt.training.loop import autocast
from nasopt.training.made_once import made_once
from nasopt.training.samples import SampleSettings

if TYPE_CHECKING:
    from nasopt.training.context import Context

Criterion: TypeAlias = Literal["fisher", "joint", "obs"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

FOLDER = "sensitivity"
"""Below a study's artifact folder."""

EXAMPLES = 1024
"""Of the training split, where a study does not say how many; all there are if they are fewer."""

REFIT_INPUTS: dict[Criterion, Literal["own", "base", "both"]] = {"fisher": "own", "joint": "own", "obs": "both"}
"""What output projections read in the refit: the errors of `obs` are those that its own correction leaves, so that this
comes first. At small shares of the latency the fit to the smaller model's inputs is needed besides."""


def study_sensitivity(criterion: Criterion, settings: SampleSettings, context: Context) -> Sensitivity:
    """The units of every block of the base model, most important first, and what each number of them costs.

    The model runs in bf16 where that is fast, on inputs (B, T). The result is read from the artifact folder if it was
    made before from the same base model, examples and settings.

    Args:
        criterion: `fisher`; `joint`, the same order, but what goes of one block together costs more than the sum; or
            `obs`, whose units of neurons are those of the Fisher order, and whose expected losses are weighted by the
            Fisher information of each block.
        settings: the sample of the training split.
        context: the study's base model and data.

    Returns:
        For each of the L layers the values (N,) and errors (N + 1,) of its heads, and of its blocks of neurons.

    Raises:
        UnsupportedModelError: the base model has a decoder, or is not one that can be cut.
        DatasetError: there are fewer training examples than are asked for.
    """
    check_sensitivity(settings, context)
    information = study_fisher(settings, context)
    by_fisher = order_by_fisher(information)
    if criterion == "fisher":
        return by_fisher
    if criterion == "joint":
        return order_by_fisher(information, COUPLING)
    tensors = made_once(
        context.folder / FOLDER,
        "obs",
        made_from(settings, context),
        lambda: _order_by_obs(by_fisher, settings, context).to_tensors(),
    )
    return Sensitivity.from_tensors(tensors)


def is_criterion(name: str) -> TypeGuard[Criterion]:
    """Whether it is the name of a criterion."""
    return name in CRITERIA


def sample_settings(examples: int | None, context: Context) -> SampleSettings:
    """The training examples that a study's sensitivities are found on, the same at every call.

    Args:
        examples: how many; None for :data:`EXAMPLES`, or all there are if they are fewer.
        context: the study's data.
    """
    training = context.config.training
    available = len(context.splits["train"])
    return SampleSettings(examples or min(EXAMPLES, available), training.batch_size, context.config.seed)


def check_sensitivity(settings: SampleSettings, context: Context) -> None:
    """Refuses what :func:`study_sensitivity` would, without running anything.

    Raises:
        UnsupportedModelError: the base model has a decoder, or is not one that can be cut.
        DatasetError: there are fewer training examples than are asked for.
    """
    _check_model(context.base_model)
    _check_examples(settings.examples, len(context.splits["train"]))


def check_task(examples: int | None, task: Task) -> None:
    """Refuses tasks and models without sensitivities, before anything is trained.

    Args:
        examples: of the training split that are to be read; None for as many as there are.
        task: the study's.

    Raises:
        UnsupportedModelError: the base model has a decoder, is not one that can be cut, or has no units.
        DatasetError: there are fewer training examples than are asked for.
        StudyFileError: the task has no loss that can be differentiated.
    """
    model = task.blank_model()
    _check_model(model)
    if not any(block.count for layer in unit_blocks(model) for block in layer):
        raise UnsupportedModelError("the model has no attention heads and no FFN neurons that could be left out")
    if not task.has_loss:
        raise StudyFileError(
            f"task.type: {task.config.type} has no loss that can be differentiated, so that the model's heads and "
            "neurons have no sensitivities; choose another method"
        )
    if examples is not None:
        _check_examples(examples, task.count("train"))


def _check_model(model: PreTrainedModel) -> None:
    family = family_of(model)
    if family.is_encoder_decoder:
        raise UnsupportedModelError(
            f"the model is of the type {family.model_type!r}: the layers of a decoder can only be removed whole, so "
            "that its heads and neurons have no sensitivities"
        )


def _check_examples(examples: int, available: int) -> None:
    if not 1 <= examples <= available:
        raise DatasetError(
            f"sensitivities are to be found on {examples} training examples, but there are {available}; "
            f"ask for 1 to {available}"
        )


def estimate_fisher(model: PreTrainedModel, settings: SampleSettings, context: Context) -> Saliency:
    """The Fisher information of a model's units for the study's loss, in bf16 where that is fast; no file is written.

    Args:
        model: the base model, or one cut out of it; it comes back on the study's device.
        settings: as for :func:`study_sensitivity`.
        context: the study's data; its batches have inputs of shape (B, T).

    Returns:
        For each of the L layers the values (N,) of its heads, and of its neurons, float64.
    """
    batches = counted_batches(settings, context, "sensitivity")
    return fisher_information(model, batches, probing_loss(settings.seed, context), device=context.device)


def counted_batches(settings: SampleSettings, context: Context, phase: str) -> Iterator[Any]:
    """The batches of a sample, on the study's device; the study is told the phase and how far it is."""
    split = context.splits["train"]
    positions = settings.batches(split)
    for done, indices in enumerate(positions, start=1):
        yield split.batch(indices).to(context.device)
        context.on_phase(phase, done, len(positions))


def probing_loss(seed: int, context: Context) -> LossOfBatch:
    """What is differentiated to see how much a model's outputs depend on its parts, in bf16 where that is fast.

    It is the task's own loss or, where a model's outputs are vectors, their random projection: the loss of these is the
    distance to the base model's vectors, which has no first derivative at the base model.

    Args:
        seed: of the projections.
        context: the study's task.
    """
    task = context.task
    embedding, generator = task.embedding, torch.Generator().manual_seed(seed)

    terms = task.loss_terms(context.splits["train"])
    mean_terms = float(terms.double().mean())

    def loss(model: PreTrainedModel, batch: Any) -> Tensor:
        # The task's loss is a mean over terms, such as words; an example counts by the number of its own.
        share = float(terms[batch.indices].sum()) / (mean_terms * len(batch.indices))
        with autocast(context.device):
            if embedding is None:
                return share * task.training_loss(model, batch)
            return random_projection(embedding.vectors(task.run(model, batch), batch), generator)

    return loss


def correct_by_obs(
    model: PreTrainedModel, architecture: Architecture, settings: SampleSettings, context: Context
) -> None:
    """Calls :func:`nasopt.models.sensitivity.correction.correct_projections`, in place, on the calibration inputs.

    Args:
        model: cut out of the base model; its projections keep their shapes. It reads inputs (B, T).
        architecture: the model's.
        settings: as for :func:`study_sensitivity`.
        context: the study's base model and data.
    """
    correct_projections(
        model.to(context.device),
        context.base_model.to(context.device),
        architecture,
        _grams(settings, context),
        on_step=lambda done, total: context.on_phase("correction", done, total),
    )


def study_fisher(settings: SampleSettings, context: Context) -> Saliency:
    """The Fisher information of the base model's units; from the artifact folder if it was found there before.

    Args:
        settings: as for :func:`study_sensitivity`.
        context: the study's base model and data.
    """
    tensors = made_once(
        context.folder / FOLDER,
        "fisher",
        made_from(settings, context),
        lambda: estimate_fisher(context.base_model, settings, context).to_tensors(),
    )
    return Saliency.from_tensors(tensors)


def made_from(settings: SampleSettings, context: Context) -> list[Any]:
    """What is found on a sample with the task's :func:`probing_loss` at the base model depends on it; JSON."""
    loss = context.config.task.similarity.model_dump(mode="json")  # how vectors are made; others have no settings
    probe = {} if context.task.embedding is None else {"probe": "vectors"}
    return [context.base_key, context.splits["train"].fingerprint, loss | probe, *astuple(settings)]


def _order_by_obs(by_fisher: Sensitivity, settings: SampleSettings, context: Context) -> Sensitivity:
    model = context.base_model.to(context.device)
    projections = [block.projection for layer in unit_blocks(model) for block in layer if block.projection is not None]
    grams = _grams(settings, context).of(projections)
    blocks: list[BlockSensitivity] = []
    for block, projection, gram in zip(by_fisher.blocks, projections, grams, strict=True):
        blocks.append(order_by_obs(block, projection, gram))
        context.on_phase("optimal brain surgeon", len(blocks), len(projections))
    return Sensitivity(tuple(blocks[::2]), tuple(blocks[1::2]))


def _grams(settings: SampleSettings, context: Context) -> Grams:
    """The products of the base model's inputs, for the order of its units and the corrections of all trials."""

    def make() -> Grams:
        model = context.base_model.to(context.device)
        return Grams(model, _calibration_inputs(settings, context), forward=_forward(context))

    return context.once(("grams", context.base_key, settings), make)


def _calibration_inputs(settings: SampleSettings, context: Context) -> list[Mapping[str, Tensor]]:
    """The inputs (B, T) of one pass of the model, for each batch and each text of its examples."""
    split = context.splits["train"]
    batches = (split.batch(positions).to(context.device) for positions in settings.batches(split))
    return [side.inputs for batch in batches for side in batch.sides]


def _forward(context: Context) -> Forward:
    def forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        with autocast(context.device):
            module(**inputs)

    return forward
