"""Ends a run before its trials are done, and gives a run in vain its exit code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import SearchFailedError
from nasopt.records import queries

FIRST = 3
"""This many first trials that all fail for one reason are not the candidates' fault."""

_AMOUNT = re.compile(r"\d[\d.]*(\s*([KMGT]i?B|bytes?)\b)?")


class Tally:
    """A count of how the trials of one run ended."""

    def __init__(self) -> None:
        self._completed = 0
        self._failures: list[str] = []

    def count(self, state: TrialState, reason: str | None) -> None:
        """Takes note of a trial that has ended.

        Args:
            state: the trial's state.
            reason: why it failed, if it did.
        """
        if state == TrialState.COMPLETE:
            self._completed += 1
        elif state == TrialState.FAIL:
            self._failures.append(reason or "unknown")

    def check(self) -> None:
        """Tells a run in vain from one that had nothing to do.

        Raises:
            SearchFailedError: trials were run, and none was completed.
        """
        if self._failures and not self._completed:
            count = len(self._failures)
            tried = "the only trial of this run failed" if count == 1 else f"all {count} trials of this run failed"
            raise SearchFailedError(
                f"{tried}, the last with: {self._failures[-1]}; `nasopt study trials` shows the reason of each"
            )


def check_first_trials(trials: Sequence[FrozenTrial], ended: FrozenTrial) -> None:
    """Ends a search that fails from its beginning, always for one reason.

    Args:
        trials: those of the search that have ended, by number.
        ended: the latest of them.

    Raises:
        SearchFailedError: it is one of the study's first trials, and they all failed for the same reason.
    """
    first = trials[:FIRST]
    if len(first) < FIRST or ended.number not in {trial.number for trial in first}:
        return
    reasons = {_without_amounts(queries.failure_of(trial)) for trial in first if trial.state == TrialState.FAIL}
    if all(trial.state == TrialState.FAIL for trial in first) and len(reasons) == 1:
        raise SearchFailedError(
            f"the first {FIRST} trials of the study failed for one reason: {queries.failure_of(ended)}; mend it before "
            "`nasopt study optimize` goes on (out of memory: lower `batch_size`; not finite: lower `learning_rate`)"
        )


def _without_amounts(reason: str | None) -> str:
    """A reason without its numbers: how much memory was missing, and at which step, differs from trial to trial."""
    return _AMOUNT.sub("#", reason or "")
