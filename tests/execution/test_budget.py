"""The budget of a study, shared by all processes that run its trials at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nasopt.errors import MachineError
from nasopt.execution.budget import Budget, used
from nasopt.records import names as attributes
from nasopt.storage.rdb import open_storage, parse_url


def open_study(folder: Path) -> optuna.Study:
    storage = open_storage(parse_url(f"sqlite:///{folder}/a.db"))
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def test_what_is_used(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    kinds = [{}, {attributes.IS_BASE: True}, {attributes.CONTROL: "first-1"}, {attributes.INTERRUPTED: True}]
    for marks in kinds:
        for state in (TrialState.COMPLETE, TrialState.FAIL):
            value = 1.0 if state == TrialState.COMPLETE else None
            study.add_trial(optuna.trial.create_trial(state=state, value=value, user_attrs=marks))
    assert used(study) == 2
    study.ask()
    assert used(study) == 3
    for marks in kinds[1:3]:
        study.enqueue_trial({}, user_attrs=marks)
        study.ask()
    assert used(study) == 3


def test_commands_that_run_at_once_do_not_exceed_it(tmp_path: Path) -> None:
    open_study(tmp_path)
    started = threading.Barrier(4)

    def command(_: int) -> int:
        study = open_study(tmp_path)
        budget, count = Budget(study, tmp_path, 10), 0
        started.wait()
        while budget.take():
            trial = study.ask()
            budget.begun()
            study.tell(trial, 1.0)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(command, range(4))) == 10
    assert used(open_study(tmp_path)) == 10


def test_a_trial_that_fails_to_begin_holds_nobody_up(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    budget = Budget(study, tmp_path, 1)
    for _ in range(2):
        assert budget.take()
        budget.begun()
        budget.begun()
    assert budget.is_left()


def test_a_call_with_a_number_of_its_own_shares_nothing(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    budget = Budget(study, tmp_path, None)
    assert all(budget.take() for _ in range(3))
    other = Budget(study, tmp_path, 1)
    assert other.take()
    other.begun()


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="is gone"):
        Budget(open_study(tmp_path), tmp_path / "gone", 1)
