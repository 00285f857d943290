"""Records of trials that were stopped before they ended, by cause, and how often such a trial is tried again."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import BaseTrial, FrozenTrial

from nasopt.records import names, queries
from nasopt.records.trial import TrialRecord

DEATHS = 3
"""A trial whose process died this often, over all its tries, is taken to be the cause itself."""


def may_be_retried(trial: BaseTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a trial that was interrupted is tried again.

    It always is where somebody asked for it (Ctrl-C, SIGTERM) or the machine failed; where its process died, a few
    times.

    Args:
        trial: a trial of the study.
        trials: all trials of the study, by number.
    """
    return _deaths(trial, trials) < DEATHS


def interruption(trial: BaseTrial, trials: Sequence[FrozenTrial], reason: str, *, died: bool = False) -> TrialRecord:
    """The record of a trial that was stopped.

    One that is not tried again fails with the reason, and counts as any failed trial does.

    Args:
        trial: the trial that was running.
        trials: all trials of the study, by number.
        reason: the cause of the interruption; begins with `interrupted`.
        died: whether its process ended without a word, for which the trial itself may be the reason.
    """
    if not died:
        return TrialRecord(interrupted=True, failure=reason)
    if _deaths(trial, trials) + 1 < DEATHS:
        return TrialRecord(interrupted=True, failure=reason, died=True)
    return TrialRecord(failure=f"{reason}; given up, because {DEATHS} tries of it ended with their process", died=True)


def was_interrupted(trial: BaseTrial) -> bool:
    """Whether a trial was stopped before it ended, whether it is tried again or not."""
    return queries.is_interrupted(trial) or (queries.failure_of(trial) or "").startswith("interrupted")


def _deaths(trial: BaseTrial, trials: Sequence[FrozenTrial]) -> int:
    """The number of tries, this one and those before it, whose process died."""
    count = int(bool(trial.user_attrs.get(names.DIED)))
    number = trial.user_attrs.get(names.RETRY_OF)
    return count if number is None else count + _deaths(trials[number], trials)
