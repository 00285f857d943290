"""Refitting a cut model's output projections to the base model's, on texts of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.models.reconstruction import reconstruct
from nasopt.models.sensitivity.token_weights import token_weights
from nasopt.training.loop import autocast
from nasopt.training.made_once import made_once
from nasopt.training.samples import SampleSettings
from nasopt.training.sensitivity import FOLDER, counted_batches, made_from, probing_loss

if TYPE_CHECKING:
    from nasopt.training.context import Context


def refit_projections(model: PreTrainedModel, architecture: Architecture, examples: int, context: Context) -> None:
    """Calls :func:`nasopt.models.reconstruction.reconstruct`, in place, on a sample of the training split.

    The models run in bf16 where that is fast, on batches with inputs of shape (B, T): B examples of T tokens.

    Args:
        model: cut out of the base model; its projections keep their shapes.
        architecture: the model's.
        examples: the number of training examples that are read.
        context: the study's base model and data.
    """
    config, device, split = context.config, context.device, context.splits["train"]
    settings = SampleSettings(examples, config.training.batch_size, config.seed)
    weights = study_token_weights(settings, context)

    def forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        with autocast(device):
            module(**inputs)

    batches = (split.batch(positions).to(device) for positions in settings.batches(split))
    inputs = [side.inputs for batch in batches for side in batch.sides]
    reconstruct(
        model.to(device),
        context.base_model.to(device),
        architecture.kept_layers,
        inputs,
        weights=weights,
        forward=forward,
        on_step=lambda done, total: context.on_phase("reconstruction", done, total),
    )


def study_token_weights(settings: SampleSettings, context: Context) -> list[Tensor]:
    """How much the loss depends on each token of the sample; from the artifact folder if it was found there before.

    The model runs in bf16 where that is fast.

    Args:
        settings: the sample of the training split.
        context: the study's base model and data.

    Returns:
        For each layer of the base model two tensors of shape (tokens,), see
        :func:`nasopt.models.sensitivity.token_weights.token_weights`.
    """
    found = made_once(
        context.folder / FOLDER,
        "tokens",
        made_from(settings, context),
        lambda: {str(place): weights for place, weights in enumerate(_find_token_weights(settings, context))},
    )
    return [found[str(place)] for place in range(len(found))]


def _find_token_weights(settings: SampleSettings, context: Context) -> list[Tensor]:
    batches = counted_batches(settings, context, "weights of tokens")
    return token_weights(context.base_model.to(context.device), batches, probing_loss(settings.seed, context))
