"""Tokenised examples as flat arrays, and batches of them that hold little padding.

Padding is what most of the time goes into when short texts are batched at random (66 % of the tokens on SST-2,
against 4 % here), so batches are made of texts of about equal length and padded to their own longest one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

POOL_BATCHES = 50
"""Training batches are sorted by length within random pools of this many, which keeps them random enough."""


@dataclass(frozen=True)
class Batch:
    """One padded batch.

    Attributes:
        inputs: what the model takes, each of shape (batch, tokens).
        labels: shape (batch,); int64 for classes, float32 for regression.
        indices: positions of the examples in their split, shape (batch,).
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    indices: Tensor

    @property
    def attention_mask(self) -> Tensor:
        return self.inputs["attention_mask"]

    def to(self, device: torch.device) -> Batch:
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device, non_blocking=True), self.indices)


@dataclass(frozen=True)
class EncodedSplit:
    """The tokenised examples of one split.

    Attributes:
        columns: for each input of the model (but the mask) all values of all examples in a row, shape (total_tokens,).
        padding: for each of them the value that pads.
        offsets: example i has the positions offsets[i] to offsets[i + 1], shape (examples + 1,).
        labels: shape (examples,).
    """

    columns: dict[str, Tensor]
    padding: dict[str, int]
    offsets: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def total_tokens(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each example, shape (examples,)."""
        return self.offsets.diff()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and labels."""
        digest = hashlib.sha256()
        for tensor in (*self.columns.values(), self.offsets, self.labels):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def batch(self, indices: Tensor) -> Batch:
        """The examples at `indices`, padded to the longest of them."""
        positions, mask = gather_positions(self.offsets, indices)
        inputs = {
            name: values[positions].to(torch.int64).masked_fill_(~mask, self.padding[name])
            for name, values in self.columns.items()
        }
        return Batch({**inputs, "attention_mask": mask.to(torch.int64)}, self.labels[indices], indices)


def gather_positions(offsets: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens of some examples lie in the flat arrays.

    Args:
        offsets: shape (examples + 1,).
        indices: shape (batch,).

    Returns:
        Positions, shape (batch, tokens), any valid one where there is no token; and the mask of real tokens.
    """
    starts = offsets[indices]
    lengths = offsets[indices + 1] - starts
    steps = torch.arange(int(lengths.max()))
    mask = steps < lengths[:, None]
    return (starts[:, None] + steps).where(mask, 0), mask


def training_batches(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Random batches of about equal length: every example once, indices of shape (<= batch_size,) each."""
    order = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for pool in torch.split(order, batch_size * POOL_BATCHES):
        batches.extend(torch.split(pool[lengths[pool].argsort(stable=True)], batch_size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def sorted_batches(lengths: Tensor, batch_size: int) -> Sequence[Tensor]:
    """Batches by descending length, for passes without training: the same ones every time."""
    return torch.split(lengths.argsort(descending=True, stable=True), batch_size)
