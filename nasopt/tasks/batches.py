"""Tokenised examples as flat arrays, and batches of them that hold little padding.

Padding is what most of the time goes into when short texts are batched at random (66 % of the tokens on SST-2,
against 4 % here), so batches are made of texts of about equal length and padded to their own longest one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

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

    @property
    def sides(self) -> tuple[Batch, ...]:
        """The batches that a model reads in one pass each: this one itself."""
        return (self,)

    def to(self, device: torch.device) -> Batch:
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device, non_blocking=True), self.indices)


@dataclass(frozen=True)
class PairBatch:
    """The two texts of some examples, each padded on its own: two languages, or source and target."""

    first: Batch
    second: Batch

    @property
    def labels(self) -> Tensor:
        return self.first.labels

    @property
    def indices(self) -> Tensor:
        return self.first.indices

    @property
    def sides(self) -> tuple[Batch, ...]:
        return (self.first, self.second)

    def to(self, device: torch.device) -> PairBatch:
        return PairBatch(self.first.to(device), self.second.to(device))


class Examples(Protocol):
    """The tokenised examples of one split, whatever an example is."""

    def __len__(self) -> int: ...

    @property
    def total_tokens(self) -> int: ...

    @property
    def lengths(self) -> Tensor:
        """Tokens of each example, shape (examples,)."""

    @property
    def labels(self) -> Tensor:
        """Shape (examples,); zeros where there are none."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and labels."""

    @property
    def sides(self) -> tuple[EncodedSplit, ...]:
        """The texts that a model reads one by one: one of each example, or two."""

    def batch(self, indices: Tensor) -> Any:
        """The examples at `indices`, a :class:`Batch` or a :class:`PairBatch`."""


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

    @property
    def sides(self) -> tuple[EncodedSplit, ...]:
        return (self,)

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


@dataclass(frozen=True)
class PairedSplit:
    """Examples of two texts, which a model reads one by one; `references` are the second ones as they were written,
    for tasks that need them."""

    first: EncodedSplit
    second: EncodedSplit
    references: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.first)

    @property
    def total_tokens(self) -> int:
        return self.first.total_tokens + self.second.total_tokens

    @cached_property
    def lengths(self) -> Tensor:
        return self.first.lengths + self.second.lengths

    @property
    def labels(self) -> Tensor:
        return self.first.labels

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.first.fingerprint} {self.second.fingerprint}".encode()).hexdigest()

    @property
    def sides(self) -> tuple[EncodedSplit, ...]:
        return (self.first, self.second)

    def batch(self, indices: Tensor) -> PairBatch:
        return PairBatch(self.first.batch(indices), self.second.batch(indices))


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
