"""Which heads and neurons of a block stay, by the name of the way or by a user's own function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from nasopt.config.functions import load_function
from nasopt.models.sensitivity.values import Sensitivity
from nasopt.models.surgery import Block, UnitSelector, keep_largest
from nasopt.training.sensitivity import is_criterion, sample_settings, study_sensitivity

if TYPE_CHECKING:
    from nasopt.training.context import Context


def unit_selector(pruning: str, context: Context) -> UnitSelector:
    """Who stays where a block shrinks, and comes back where it grows.

    Args:
        pruning: `magnitude`: the largest weights; `fisher`, `obs`: by the study's sensitivity, which is found once; or
            the name of a function, ``package.module:function``.
        context: the study's base model and data.

    Raises:
        UnsupportedModelError: the base model has no sensitivity.
        ValueError: the function cannot be imported.
    """
    if pruning == "magnitude":
        return keep_largest
    if is_criterion(pruning):
        return keep_first_of(study_sensitivity(pruning, sample_settings(None, context), context))
    return load_function(pruning)


def keep_first_of(sensitivity: Sensitivity) -> UnitSelector:
    """The units that come first in their block's order."""
    ranks = {
        (layer, kind): {unit: rank for rank, unit in enumerate(block.order)}
        for kind, blocks in (("heads", sensitivity.heads), ("ffn", sensitivity.neurons))
        for layer, block in enumerate(blocks)
    }

    def by_sensitivity(
        model: nn.Module, layer: int, block: Block, candidates: tuple[int, ...], keep: int
    ) -> Sequence[int]:
        rank = ranks[layer, block]
        return sorted(candidates, key=lambda unit: rank[unit])[:keep]

    return by_sensitivity
