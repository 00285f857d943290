"""What each number of kept units is expected to cost, block by block, as samplers read it from a study.

A block is the attention heads, or the FFN neurons, of one layer; it has the name of the parameter that counts its
units. Methods find the numbers; here they are data (METHODS.md, section 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from optuna.study import Study

from nasopt.numerics.budget import BlockCosts, Floats
from nasopt.records.names import GUIDANCE
from nasopt.records.queries import study_detail


@dataclass(frozen=True)
class BlockGuide:
    """The costs of one block.

    Attributes:
        counts: the numbers of heads or neurons for which the costs are known, rising, shape (n,).
        costs: the loss expected with as many of them, in a unit that all blocks share, and the time.
    """

    counts: Floats
    costs: BlockCosts

    def at(self, counts: Sequence[int]) -> BlockCosts:
        """The costs at other counts, on the straight lines between those that are known."""
        errors = np.interp(counts, self.counts, self.costs.errors)
        return BlockCosts(errors, np.interp(counts, self.counts, self.costs.times))

    def to_json(self) -> dict[str, list[float]]:
        """The guide as JSON."""
        found = {"counts": self.counts, "losses": self.costs.errors, "times": self.costs.times}
        return {name: values.tolist() for name, values in found.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BlockGuide:
        """The guide that :meth:`to_json` gave."""
        counts = np.asarray(document["counts"], dtype=np.float64)
        return cls(counts, BlockCosts(document["losses"], document["times"]))


Guide: TypeAlias = Mapping[str, BlockGuide]
"""The costs of every block, by the name of its parameter."""


def guide_of(study: Study) -> Guide:
    """The guide that is stored with a study; empty if there is none."""
    stored = study_detail(study, GUIDANCE) or {}
    return {name: BlockGuide.from_json(document) for name, document in stored.items()}
