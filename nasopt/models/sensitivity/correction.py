"""Corrects the output projections of a cut encoder for the units that are gone, as the optimal brain surgeon does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.models.families import encoder_family_of
from nasopt.models.sensitivity.calibration import Grams
from nasopt.models.sensitivity.gates import UnitBlock, unit_blocks
from nasopt.models.sensitivity.obs import corrected_weight, damped, extended_weight, unit_columns


class _Shrunk(NamedTuple):
    """A block that lost units: the base model's projection, its columns that stay, and the module in its place."""

    full: nn.Linear
    columns: Tensor
    place: nn.Module


@torch.no_grad()
def correct_projections(
    model: PreTrainedModel,
    base_model: PreTrainedModel,
    architecture: Architecture,
    grams: Grams,
    *,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Gives, in place, the projections of blocks that lost units the corrected weights and biases of METHODS.md 6.

    They are optimal for the inputs that the *base model* gives each block, so that one run over the texts serves all
    blocks; :func:`nasopt.models.reconstruction.reconstruct` takes the smaller model's own instead. A block that is
    empty gets the mean output of the base model's block as its bias.

    Args:
        model: a model cut out of `base_model`, with its weights.
        base_model: the full-size model, on the same device; it is left in eval mode.
        architecture: the architecture of the model.
        grams: the products of the inputs of the base model's projections over the calibration texts.
        on_step: called with the number of projections that are done, and the number of all.
    """
    shrunk = _shrunk(model, base_model, architecture)
    found = grams.of([block.full for block in shrunk])
    for done, (block, gram) in enumerate(zip(shrunk, found, strict=True), start=1):
        corrected = corrected_weight(extended_weight(block.full), damped(gram), block.columns.to(gram.device))
        bias = getattr(block.place, "bias", None)
        if bias is not None:
            bias.copy_(corrected[:, -1])
        if isinstance(block.place, nn.Linear):
            weight = block.place.weight
            weight.copy_(corrected[:, : weight.shape[1]])
        on_step(done, len(shrunk))


def _shrunk(model: PreTrainedModel, base_model: PreTrainedModel, architecture: Architecture) -> list[_Shrunk]:
    """The blocks of kept layers that lost units and have weights or a bias left to correct."""
    parts = encoder_family_of(base_model).parts
    full = unit_blocks(base_model)
    found = []
    for layer, index in zip(parts.encoder_layers(model), architecture.kept_layers, strict=True):
        units = architecture.layers[index]
        assert units is not None
        for block, kept, name in (
            (full[index].heads, units.heads, parts.attention_output),
            (full[index].neurons, units.neurons, parts.down),
        ):
            if block.projection is None or len(kept) == block.count:
                continue
            columns = _columns(block, block.projection, kept)
            if len(columns):
                found.append(_Shrunk(block.projection, columns, layer.get_submodule(name)))
    return found


def _columns(block: UnitBlock, projection: nn.Linear, kept: Sequence[int]) -> Tensor:
    """The columns of the kept units in the extended weight, and the bias's column where there is one."""
    columns = unit_columns(torch.tensor(kept, dtype=torch.int64), block.size)
    if projection.bias is None:
        return columns
    return torch.cat([columns, torch.tensor([projection.in_features])])
