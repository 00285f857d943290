"""Batches with the lengths of real texts, for a latency that does not depend on one fixed shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLED_TEXTS = 64
"""The least number of texts that are sampled."""
SAMPLED_BATCHES = 4
"""The least number of batches that are sampled."""
SEED = 0


def sampled_batches(count: int, batch_size: int) -> list[Tensor]:
    """The texts of a split that are measured together: the same ones in every trial of every study on it.

    The smallest number of whole batches that holds at least 64 texts, and at least 4 batches, drawn at random (seed 0)
    without replacement, so that long and short texts meet in a batch as they do when requests arrive. A split that has
    fewer texts is gone through again, in the same order.

    Args:
        count: the number of texts in the split.
        batch_size: the number of texts in each batch.

    Returns:
        Positions in the split, shape (batch_size,) each.
    """
    batches = max(SAMPLED_BATCHES, -(-SAMPLED_TEXTS // batch_size))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    positions = torch.arange(batches * batch_size) % count
    return list(order[positions].view(batches, batch_size).unbind())


def shortened(inputs: Mapping[str, Tensor], longest: int) -> dict[str, Tensor]:
    """A padded batch, each tensor of shape (batch, tokens), with at most `longest` tokens of each text."""
    return {name: tensor[:, :longest] for name, tensor in inputs.items()}
