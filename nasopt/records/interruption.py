"""Records of trials that were stopped before they ended, and how often such a trial is tried again."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import BaseTrial, FrozenTrial

from nasopt.records import names, queries
from nasopt.records.trial import TrialRecord

RETRIES = 3
"""The most retries of an interrupted trial; one that is interrupted each time is taken to be the cause itself."""


def may_be_retried(trial: BaseTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a trial has retries left.

    Args:
        trial: a trial of the study.
        trials: all trials of the study, by number.
    """
    return _retries_behind(trial, trials) < RETRIES


def interruption(trial: BaseTrial, trials: Sequence[FrozenTrial], reason: str) -> TrialRecord:
    """The record of a trial that Ctrl-C, SIGTERM or the end of its process stopped.

    The last retry of a trial fails with the reason, and counts as any failed trial does.

    Args:
        trial: the trial that was running.
        trials: all trials of the study, by number.
        reason: the cause of the interruption; begins with `interrupted`.
    """
    if may_be_retried(trial, trials):
        return TrialRecord(interrupted=True, failure=reason)
    return TrialRecord(failure=f"{reason}; given up after {RETRIES + 1} tries, each of which was interrupted")


def was_interrupted(trial: BaseTrial) -> bool:
    """Whether a trial was stopped before it ended, whether it is tried again or not."""
    return queries.is_interrupted(trial) or (queries.failure_of(trial) or "").startswith("interrupted")


def _retries_behind(trial: BaseTrial, trials: Sequence[FrozenTrial]) -> int:
    """The number of earlier tries: 0 for a first try, 1 for its retry, and so on."""
    count, number = 0, trial.user_attrs.get(names.RETRY_OF)
    while number is not None:
        count, number = count + 1, trials[number].user_attrs.get(names.RETRY_OF)
    return count
