"""The causes of interruptions, and the number of times that a trial is tried again."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.records import names as attributes
from nasopt.records.interruption import DEATHS, interruption, may_be_retried, was_interrupted

GONE, ASKED = "interrupted: its process is gone", "interrupted: Ctrl-C"


def failed(marks: dict[str, Any]) -> FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=marks)


def chain(*died: bool) -> list[FrozenTrial]:
    """A trial and retries of it, each of the one before; the last one is under way."""
    trials: list[FrozenTrial] = []
    for number, it in enumerate((*died, False)):
        marks = {attributes.RETRY_OF: number - 1} if number else {}
        trials.append(failed(marks | ({attributes.DIED: True} if it else {})))
    return trials


def test_a_trial_whose_process_dies_again_and_again_is_failed() -> None:
    for deaths in range(DEATHS):
        trials = chain(*[True] * deaths)
        record = interruption(trials[-1], trials, GONE, died=True)
        is_last = deaths == DEATHS - 1
        assert (record.interrupted, record.died) == (None if is_last else True, True)
        assert (
            record.failure == f"{GONE}; given up, because 3 tries of it ended with their process" if is_last else GONE
        )
        trials[-1] = failed({**trials[-1].user_attrs, **record.to_attributes()})
        assert may_be_retried(trials[-1], trials) == (not is_last)


def test_what_somebody_asked_for_is_never_held_against_a_trial() -> None:
    trials = chain(*[False] * 10, True, *[False] * 10)
    record = interruption(trials[-1], trials, ASKED)
    assert (record.interrupted, record.died, record.failure) == (True, None, ASKED)
    assert may_be_retried(trials[-1], trials)
    assert interruption(trials[-1], trials, GONE, died=True).interrupted


def test_both_kinds_were_interrupted() -> None:
    for trials in (chain(), chain(True, True)):
        for died in (False, True):
            assert was_interrupted(failed(interruption(trials[-1], trials, GONE, died=died).to_attributes()))
    assert not was_interrupted(failed({}))
