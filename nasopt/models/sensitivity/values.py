"""The sensitivity of a model to the loss of its units: their order, and the expected cost of each number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nasopt.architecture.encoder import Architecture, KeptUnits


@dataclass(frozen=True)
class BlockSensitivity:
    """The heads, or the FFN neurons, of one layer, in the order in which they should stay.

    A unit is one head, or a block of `step` neurons (the last one may be smaller).

    Attributes:
        order: the heads or neurons in the model's numbering, most important first.
        step: how many of them make a unit.
        values: the Fisher information of each unit in that order, shape (units,).
        errors: E(k) where the first k units stay, shape (units + 1,), as a share of the error where none stays: from 1
            at k = 0 to 0 at k = units, never rising. All are zero where the block has nothing to lose.
    """

    order: tuple[int, ...]
    step: int
    values: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def units(self) -> int:
        return len(self.values)

    @property
    def expected_losses(self) -> tuple[float, ...]:
        """E(k) in the unit of Fisher information, which is the same for all blocks; shape (units + 1,)."""
        weight = sum(self.values)
        return tuple(weight * error for error in self.errors)

    def kept(self, count: int) -> tuple[int, ...]:
        """The heads or neurons of the first `count` units, ascending.

        Raises:
            ValueError: the block has fewer units.
        """
        if not 0 <= count <= self.units:
            raise ValueError(f"{count} of {self.units} units cannot be kept")
        return tuple(sorted(self.order[: count * self.step]))


@dataclass(frozen=True)
class Sensitivity:
    """The blocks of every layer of a model, by one criterion."""

    heads: tuple[BlockSensitivity, ...]
    neurons: tuple[BlockSensitivity, ...]

    @property
    def blocks(self) -> list[BlockSensitivity]:
        """The blocks layer by layer, heads before neurons."""
        return [block for layer in zip(self.heads, self.neurons, strict=True) for block in layer]

    def architecture(self, counts: Sequence[int], current: Architecture | None = None) -> Architecture:
        """The architecture with some units of each block; it keeps all layers, some perhaps with empty blocks.

        Args:
            counts: how many units of each block stay, in the order of :attr:`blocks`.
            current: the architecture of a model that was cut before; the result is in the base model's numbering then.
                None for a full model.

        Raises:
            ValueError: a block has fewer units, or there are not as many counts as blocks.
        """
        kept = [block.kept(count) for block, count in zip(self.blocks, counts, strict=True)]
        units = [KeptUnits(heads, neurons) for heads, neurons in zip(kept[::2], kept[1::2], strict=True)]
        if current is None:
            return Architecture(tuple(units))
        owned = (layer for layer in current.layers if layer is not None)
        chosen = iter([_numbered(positions, layer) for positions, layer in zip(units, owned, strict=True)])
        return replace(current, layers=tuple(None if layer is None else next(chosen) for layer in current.layers))

    def to_tensors(self) -> dict[str, Tensor]:
        """The blocks as named tensors, for a safetensors file."""
        tensors = {}
        for index, block in enumerate(self.blocks):
            tensors[f"{index}.order"] = torch.tensor(block.order, dtype=torch.int64)
            tensors[f"{index}.step"] = torch.tensor(block.step)
            tensors[f"{index}.values"] = torch.tensor(block.values, dtype=torch.float64)
            tensors[f"{index}.errors"] = torch.tensor(block.errors, dtype=torch.float64)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Sensitivity:
        blocks = [
            BlockSensitivity(
                tuple(tensors[f"{index}.order"].tolist()),
                int(tensors[f"{index}.step"]),
                tuple(tensors[f"{index}.values"].tolist()),
                tuple(tensors[f"{index}.errors"].tolist()),
            )
            for index in range(len(tensors) // 4)
        ]
        return cls(tuple(blocks[::2]), tuple(blocks[1::2]))


def _numbered(positions: KeptUnits, owned: KeptUnits) -> KeptUnits:
    """The base model's numbers of units that are given by their positions among the units that a layer has."""
    return KeptUnits(
        tuple(owned.heads[position] for position in positions.heads),
        tuple(owned.neurons[position] for position in positions.neurons),
    )
