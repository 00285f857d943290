"""Which members of a front are shown, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from nasopt.errors import TrialNotFoundError
from nasopt.records.conditions import objective_index, satisfying


@dataclass(frozen=True)
class Choice:
    """A reader's choice among the members of a front.

    Attributes:
        where: comparisons joined by ``and`` that members must satisfy; empty for all.
        prefer: the objective whose best value comes first, by its name with or without the unit.
    """

    where: str = ""
    prefer: str = "quality"

    def of(self, front: Sequence[FrozenTrial], names: Sequence[str]) -> list[FrozenTrial]:
        """The chosen members, the preferred one first.

        Args:
            front: complete trials.
            names: the names of their values, quality first, which alone is maximised.

        Raises:
            TrialNotFoundError: an objective does not exist, the condition cannot be read, or no member satisfies it.
        """
        place = objective_index(self.prefer, names, "--prefer")
        found = satisfying(front, self.where, names, option="--where")
        if front and not found:
            raise TrialNotFoundError(f"--where {self.where!r}: no member of the front satisfies it; loosen it")
        return sorted(found, key=lambda trial: trial.values[place], reverse=place == 0)


ALL = Choice()
"""Every member, best quality first."""
