"""Refitting a cut model's output projections to the base model's, on texts of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.models.reconstruction import reconstruct
from nasopt.training.loop import autocast
from nasopt.training.samples import SampleSettings

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
        forward=forward,
        on_step=lambda done, total: context.on_phase("reconstruction", done, total),
    )
