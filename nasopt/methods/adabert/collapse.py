"""The verdict on whether a differentiable search has found anything, in plain words.

METHODS.md section 3: collapse to operations without parameters is the known failure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nasopt.architecture.cells import OPERATIONS, PARAMETER_FREE

UNDECIDED = 0.9
"""The share of ln 7 above which a mean entropy has hardly fallen, so that the weights have not chosen."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a search.

    Attributes:
        kind: whether all winners are free of parameters, or nothing was chosen, or neither.
        text: the verdict for people, with the numbers.
    """

    kind: Literal["fine", "parameter-free", "undecided"]
    text: str

    @property
    def collapsed(self) -> bool:
        return self.kind != "fine"


def judge(winners: Sequence[str], entropies: Sequence[Sequence[float]]) -> Verdict:
    """The verdict on a search that is over.

    Args:
        winners: the most probable operation of each cell.
        entropies: the entropy of theta in nats, for each epoch and cell, (epochs, cells).
    """
    highest = math.log(len(OPERATIONS))
    mean = sum(entropies[-1]) / len(entropies[-1])
    course = f"mean entropy per cell {mean:.2f} of {highest:.2f} nats"
    chosen = " ".join(winners)
    if all(winner in PARAMETER_FREE for winner in winners):
        return Verdict(
            "parameter-free",
            f"collapsed: every cell chose an operation without parameters ({chosen}), so the student is hardly more "
            f"than a bag of words; {course}",
        )
    if mean > UNDECIDED * highest:
        return Verdict(
            "undecided",
            f"undecided: {course}, it has fallen by {100 * (1 - mean / highest):.0f} %, so the winners ({chosen}) are "
            "close to chance",
        )
    return Verdict("fine", f"fine: chose {chosen}; {course}")


def cures(kind: str) -> str:
    """Options that helped against a collapse where we measured it (benchmarks/results/adabert.md), and what did not."""
    if kind == "undecided":
        return (
            "more steps: more training examples, or more search_epochs, with an architecture_learning_rate of 0.01 "
            "(30,000 examples and 8 epochs decided, 8,000 and 6 did not)"
        )
    return (
        "a much lower efficiency_weight (0.005 or less) with more training examples; warmup_epochs, efficiency_warmup, "
        "tau_start and tau_end, and architecture_split did not help in the runs we measured"
    )
