"""The number of times that a trial is tried again."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.records import names as attributes
from nasopt.records.interruption import RETRIES, interruption, may_be_retried, was_interrupted


def chain(length: int) -> list[FrozenTrial]:
    """A trial and retries of it, each of the one before."""
    marks = [{}, *({attributes.RETRY_OF: number} for number in range(length - 1))]
    return [optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=mark) for mark in marks]


def test_retries_are_counted_along_the_chain() -> None:
    trials = chain(RETRIES + 1)
    assert [may_be_retried(trial, trials) for trial in trials] == [True] * RETRIES + [False]


def test_the_last_retry_is_failed_for_good() -> None:
    trials = chain(RETRIES + 1)
    record = interruption(trials[0], trials, "interrupted: Ctrl-C")
    assert (record.interrupted, record.failure) == (True, "interrupted: Ctrl-C")
    record = interruption(trials[-1], trials, "interrupted: Ctrl-C")
    assert record.interrupted is None
    assert record.failure == "interrupted: Ctrl-C; given up after 4 tries, each of which was interrupted"


def test_both_kinds_were_interrupted() -> None:
    trials = chain(RETRIES + 1)
    for trial in trials:
        ended = optuna.trial.create_trial(
            state=TrialState.FAIL, user_attrs=interruption(trial, trials, "interrupted: SIGTERM").to_attributes()
        )
        assert was_interrupted(ended)
    assert not was_interrupted(trials[0])
