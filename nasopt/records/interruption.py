"""Trials that were stopped before they ended: what is stored of one, and how often it is tried again."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import BaseTrial, FrozenTrial

from nasopt.records import names, queries
from nasopt.records.trial import TrialRecord

RETRIES = 3
"""An interrupted trial is tried again at most so often; what interrupts it each time is taken to be its own fault."""


def may_be_retried(trial: BaseTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a trial has retries left.

    Args:
        trial: of the study.
        trials: all of the study's, by number.
    """
    return _retries_behind(trial, trials) < RETRIES


def interruption(trial: BaseTrial, trials: Sequence[FrozenTrial], reason: str) -> TrialRecord:
    """What is stored of a trial that Ctrl-C, SIGTERM or the end of its process stopped.

    The last retry of a trial is failed with its reason, and counts as any failed trial does.

    Args:
        trial: under way.
        trials: all of the study's, by number.
        reason: what stopped it; begins with `interrupted`.
    """
    if may_be_retried(trial, trials):
        return TrialRecord(interrupted=True, failure=reason)
    return TrialRecord(failure=f"{reason}; given up after {RETRIES + 1} tries, each of which was interrupted")


def was_interrupted(trial: BaseTrial) -> bool:
    """Whether a trial was stopped before it ended, be it to be tried again or not."""
    return queries.is_interrupted(trial) or (queries.failure_of(trial) or "").startswith("interrupted")


def _retries_behind(trial: BaseTrial, trials: Sequence[FrozenTrial]) -> int:
    """0 for a first try, 1 for its retry, and so on."""
    count, number = 0, trial.user_attrs.get(names.RETRY_OF)
    while number is not None:
        count, number = count + 1, trials[number].user_attrs.get(names.RETRY_OF)
    return count
