"""Reasons that end a run before its trials are done, and runs in vain."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import SearchFailedError
from nasopt.execution.stopping import Tally, check_first_trials
from nasopt.records import names as attributes

COMPLETE, FAIL, PRUNED = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED
MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate {} GiB. GPU 0 has {} MiB free"


def trials(*reasons: str | None) -> list[FrozenTrial]:
    """Trials that failed for a reason, or are complete without one, after a base trial of number 0."""
    made = []
    for number, reason in enumerate(reasons, start=1):
        state, value = (COMPLETE, 1.0) if reason is None else (FAIL, None)
        marks = {} if reason is None else {attributes.FAILURE: reason}
        trial = optuna.trial.create_trial(state=state, value=value, user_attrs=marks)
        trial.number = number
        made.append(trial)
    return made


def test_a_run_in_vain() -> None:
    tally = Tally()
    tally.check()
    tally.count(PRUNED, None)
    tally.check()
    tally.count(FAIL, "the loss became nan")
    with pytest.raises(SearchFailedError, match=r"the only trial of this run failed, .*the loss became nan"):
        tally.check()
    tally.count(COMPLETE, None)
    tally.check()


def test_three_first_failures_of_one_reason() -> None:
    made = trials(MEMORY.format("2.50", 12), MEMORY.format(3, "1.5"), MEMORY.format("1", 7))
    for count in (1, 2):
        check_first_trials(made[:count], made[count - 1])
    with pytest.raises(SearchFailedError, match=r"the first 3 trials .* one reason: OutOfMemoryError"):
        check_first_trials(made, made[2])


@pytest.mark.parametrize(
    "reasons",
    [
        ("nan", "nan", None),
        (None, "nan", "nan"),
        ("nan", "nan", "out of memory"),
        ("MemoryError: 2.5 GiB", "the loss became nan", "MemoryError: 2.5 GiB"),
    ],
)
def test_what_lets_a_search_go_on(reasons: tuple[str | None, ...]) -> None:
    made = trials(*reasons)
    check_first_trials(made, made[-1])


def test_later_failures_end_nothing() -> None:
    made = trials("nan", "nan", "nan", "nan")
    check_first_trials(made, made[3])
