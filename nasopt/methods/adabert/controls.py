"""Controls of AdaBERT: the bag of embeddings, and random cells out of the same supernet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.architecture.cells import OPERATIONS, Operation
from nasopt.methods.adabert.options import AdaBERTOptions
from nasopt.methods.adabert.weights import BagOfEmbeddings, FromSupernet, student_architecture
from nasopt.methods.controls import Control, Controls, EpochCost, Member, not_counted
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context


class AdaBERTControls(Controls):
    """The bag of embeddings, trained for all passes of a member's line; and random cells out of the supernet.

    Passes are not weighted by FLOPs here: the bag and cells without convolutions have next to none, and no number of
    epochs would add up to the supernet's.
    """

    def __init__(self, options: AdaBERTOptions) -> None:
        self._options = options

    def depth(self, params: Mapping[str, Any]) -> int:
        """Cells of the chain, the skipped ones too: every member is compared with every control."""
        return self._options.cells

    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        cells = self._options.cells
        extra = max(0, math.ceil(self._options.search_passes) - self._options.search_epochs)
        lines = {member.lineage.search_epochs + extra + member.lineage.distill_epochs for member in members}
        found = [Control("bag-of-embeddings", {"kind": "bag", "epochs": epochs}, cells) for epochs in sorted(lines)]
        if members:
            found += [
                Control(f"random-cells-{index}", {"kind": "cells", "cells": list(drawn)}, cells)
                for index, drawn in enumerate(random_cells(cells, random_masks, seed))
            ]
        return found

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        options = self._options
        if recipe["kind"] == "cells":
            return student_architecture(recipe["cells"], options), FromSupernet(options)
        return student_architecture((), options), BagOfEmbeddings(options, recipe["epochs"])


def random_cells(cells: int, count: int, seed: int) -> list[tuple[Operation, ...]]:
    """Different chains, each operation equally likely; those of a smaller `count` are the first of a larger."""
    rng = np.random.default_rng([seed, cells])
    drawn: dict[tuple[Operation, ...], None] = {}
    while len(drawn) < min(count, len(OPERATIONS) ** cells):
        drawn.setdefault(tuple(OPERATIONS[index] for index in rng.integers(len(OPERATIONS), size=cells)))
    return list(drawn)
