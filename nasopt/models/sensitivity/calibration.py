"""Products of the inputs of output projections over calibration texts: the matrix H of the optimal brain surgeon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.models.reconstruction import Forward

GRAM_BYTES = 2**29
"""Bytes of the matrices that are in memory at a time; for more the model runs over the texts again."""


@torch.no_grad()
def input_grams(
    model: PreTrainedModel,
    projections: Sequence[nn.Linear],
    batches: Sequence[Mapping[str, Tensor]],
    *,
    forward: Forward = lambda model, inputs: model(**inputs),
    max_bytes: int = GRAM_BYTES,
) -> Iterator[Tensor]:
    """Computes `X X^T` for each projection in turn, in float64, where X holds its inputs at all real tokens.

    A projection with a bias has a 1 as an additional, last input.

    Args:
        model: the model that is run; it is left in eval mode.
        projections: modules of the model.
        batches: inputs of the model with their `attention_mask`, on its device.
        forward: runs the model on a batch.
        max_bytes: the bytes of matrices in memory at most, unless a single one needs more.

    Yields:
        A tensor of shape (inputs, inputs), with one more of each where there is a bias.
    """
    model.eval()
    for group in _groups(projections, max_bytes):
        grams = [_empty(projection) for projection in group]
        for inputs in batches:
            mask = inputs["attention_mask"].bool()
            seen: list[list[Tensor]] = [[] for _ in group]
            with ExitStack() as hooks:
                for projection, items in zip(group, seen, strict=True):
                    hook = projection.register_forward_pre_hook(lambda _, given, items=items: items.append(given[0]))
                    hooks.callback(hook.remove)
                forward(model, inputs)
            # This comes after the pass, outside its autocast, so that these products are never in bf16.
            for gram, items in zip(grams, seen, strict=True):
                for found in items:
                    gram += _product(found[mask], len(gram))
        yield from grams


class Grams:
    """The products of one model over its calibration texts, kept in memory for the next call as far as they fit.

    Args:
        model: the model that is run.
        batches: inputs of the model with their `attention_mask`, on its device.
        forward: runs the model on a batch.
        max_bytes: the bytes of the products that are kept, and the bytes that a run over the texts holds besides.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Mapping[str, Tensor]],
        *,
        forward: Forward = lambda model, inputs: model(**inputs),
        max_bytes: int = GRAM_BYTES,
    ) -> None:
        self._missing = partial(input_grams, model, batches=batches, forward=forward, max_bytes=max_bytes)
        self._kept: dict[nn.Linear, Tensor] = {}
        self._room = max_bytes

    def of(self, projections: Sequence[nn.Linear]) -> Iterator[Tensor]:
        """The product of each projection's inputs in turn, see :func:`input_grams`; they must not be changed."""
        found = self._missing([projection for projection in projections if projection not in self._kept])
        for projection in projections:
            gram = self._kept.get(projection)
            if gram is None:
                gram = next(found)
                if gram.nbytes <= self._room:
                    self._kept[projection] = gram
                    self._room -= gram.nbytes
            yield gram


def _product(inputs: Tensor, size: int) -> Tensor:
    """`X X^T` of inputs (tokens, channels), in their precision or fp32, with a channel of ones if `size` has it."""
    rows = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if rows.shape[1] < size:
        rows = torch.cat([rows, rows.new_ones((len(rows), 1))], dim=1)
    return rows.T @ rows


def _size(projection: nn.Linear) -> int:
    return projection.in_features + int(projection.bias is not None)


def _empty(projection: nn.Linear) -> Tensor:
    size = _size(projection)
    return torch.zeros((size, size), dtype=torch.float64, device=projection.weight.device)


def _groups(projections: Sequence[nn.Linear], max_bytes: int) -> Iterator[list[nn.Linear]]:
    """Splits projections into runs whose matrices fit."""
    group: list[nn.Linear] = []
    used = 0
    for projection in projections:
        needed = 8 * _size(projection) ** 2
        if group and used + needed > max_bytes:
            yield group
            group, used = [], 0
        group.append(projection)
        used += needed
    if group:
        yield group
