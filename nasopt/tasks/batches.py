"""Tokenised examples as flat arrays, and batches of them that hold little padding.

Most of the time goes into padding when short texts are batched at random (66 % of the tokens on SST-2, against 4 %
here), so batches are made of texts of about equal length and padded to their own longest one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from nasopt.host.pausing import pause_for_measurements

EVALUATION_BATCH = 64
"""Examples that a model reads at once where it is not trained."""
POOL_BATCHES = 50
"""Training batches are sorted by length within random pools of this many, which keeps them random enough."""


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        inputs: the model's inputs by name, each of shape (batch, tokens).
        labels: the examples' labels, shape (batch,); int64 for classes, float32 for regression.
        indices: the positions of the examples in their split, shape (batch,).
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    indices: Tensor

    @property
    def attention_mask(self) -> Tensor:
        """1 for real tokens and 0 for padding, shape (batch, tokens)."""
        return self.inputs["attention_mask"]

    @property
    def sides(self) -> tuple[Batch, ...]:
        """The batches that a model reads in one pass each: only this one."""
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
        """The examples' labels, shape (batch,)."""
        return self.first.labels

    @property
    def indices(self) -> Tensor:
        """The positions of the examples in their split, shape (batch,)."""
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
        """The number of tokens of each example, shape (examples,)."""

    @property
    def labels(self) -> Tensor:
        """The label of each example, shape (examples,); zeros where there are none."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and labels."""

    @property
    def sides(self) -> tuple[EncodedSplit, ...]:
        """The splits of the texts that a model reads one by one: one text of each example, or two."""

    def batch(self, indices: Tensor) -> Any:
        """The examples at `indices`, shape (batch,), as a :class:`Batch` or a :class:`PairBatch`."""


@dataclass(frozen=True)
class EncodedSplit:
    """The tokenised examples of one split.

    Attributes:
        columns: for each input of the model (except the mask) the values of all examples in a row, shape
            (total_tokens,).
        padding: the value that pads each of them.
        offsets: the examples' bounds, shape (examples + 1,): example i has the positions offsets[i] to offsets[i + 1].
        labels: the label of each example, shape (examples,).
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
        """The number of tokens of each example, shape (examples,)."""
        return self.offsets.diff()

    def select(self, indices: Tensor) -> EncodedSplit:
        """The split that has only the examples at `indices`, shape (examples,), in that order."""
        positions, mask = gather_positions(self.offsets, indices)
        columns = {name: values[positions[mask]] for name, values in self.columns.items()}
        ends = self.lengths[indices].cumsum(0)
        return EncodedSplit(columns, self.padding, torch.cat([ends.new_zeros(1), ends]), self.labels[indices])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and labels."""
        digest = hashlib.sha256()
        for tensor in (*self.columns.values(), self.offsets, self.labels):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def batch(self, indices: Tensor) -> Batch:
        """The examples at `indices`, shape (batch,), padded to the longest of them."""
        positions, mask = gather_positions(self.offsets, indices)
        inputs = {
            name: values[positions].to(torch.int64).masked_fill_(~mask, self.padding[name])
            for name, values in self.columns.items()
        }
        return Batch({**inputs, "attention_mask": mask.to(torch.int64)}, self.labels[indices], indices)


@dataclass(frozen=True)
class PairedSplit:
    """Examples of two texts, which a model reads one by one; `references` are the second ones as they were written."""

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
        """The number of tokens of each example's two texts together, shape (examples,)."""
        return self.first.lengths + self.second.lengths

    @property
    def labels(self) -> Tensor:
        """The label of each example, shape (examples,)."""
        return self.first.labels

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.first.fingerprint} {self.second.fingerprint}".encode()).hexdigest()

    @property
    def sides(self) -> tuple[EncodedSplit, ...]:
        return (self.first, self.second)

    def batch(self, indices: Tensor) -> PairBatch:
        """The examples at `indices`, shape (batch,), each side padded to its own longest text."""
        return PairBatch(self.first.batch(indices), self.second.batch(indices))


def gather_positions(offsets: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The positions, in the flat arrays, of the tokens of some examples.

    Args:
        offsets: the bounds of the examples in the flat arrays, shape (examples + 1,).
        indices: the examples that are wanted, shape (batch,).

    Returns:
        The positions, any valid one where there is no token, and the mask of real tokens; shape (batch, tokens) each.
    """
    starts = offsets[indices]
    lengths = offsets[indices + 1] - starts
    steps = torch.arange(int(lengths.max()))
    mask = steps < lengths[:, None]
    return (starts[:, None] + steps).where(mask, 0), mask


def training_batches(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """The indices of random batches of texts of about equal length, shape (<= batch_size,) each; every example once.

    Args:
        lengths: the number of tokens of each example, shape (examples,).
        batch_size: the number of examples in a batch, fewer in the last ones.
        generator: draws the order.
    """
    order = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for pool in torch.split(order, batch_size * POOL_BATCHES):
        batches.extend(torch.split(pool[lengths[pool].argsort(stable=True)], batch_size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def sorted_batches(lengths: Tensor, batch_size: int) -> Sequence[Tensor]:
    """The indices of batches by descending length, for passes without training; shape (<= batch_size,) each.

    `lengths` is the number of tokens of each example, shape (examples,).
    """
    return torch.split(lengths.argsort(descending=True, stable=True), batch_size)


def evaluation_batches(lengths: Tensor) -> Iterator[Tensor]:
    """Batches as :func:`sorted_batches` makes them, which stand still while another process measures a latency."""
    for indices in sorted_batches(lengths, EVALUATION_BATCH):
        pause_for_measurements()
        yield indices
