"""Patience with a database, step by step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from nasopt.host.interruption import interruptible
from nasopt.storage import outages
from nasopt.storage.outages import Patience, Storage, is_away, patience_of
from nasopt.storage.rdb import open_storage, parse_url

AWAY = OperationalError(None, None, Exception("connection refused\nmore"))


class Steps:
    """A step that fails in the given ways, one after another, and then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(outages, "_LOOK_SECONDS", 0.01)


def wrapped(error: Exception) -> StorageInternalError:
    """The error as Optuna passes it on."""
    wrapper = StorageInternalError("An exception is raised during the commit.")
    wrapper.__cause__ = error
    return wrapper


def test_a_step_is_made_again_until_it_works() -> None:
    told: list[tuple[bool, str]] = []
    patience = Patience(5, tell=lambda *event: told.append(event))
    assert patience.call(Steps(AWAY, wrapped(AWAY), AWAY), "the place") == "done"
    assert [away for away, _ in told] == [True, False]
    assert told[0][1] == "the place: the database is away (connection refused); waiting up to 5 s for it"
    assert told[1][1] == "the place: the database is back after 0 s"
    assert patience.was_just_needed
    assert not patience.is_over


def test_the_wait_ends_and_is_the_same_for_all_steps_of_an_outage() -> None:
    patience = Patience(0.1, tell=lambda *_: None)
    gone = Steps(*[AWAY] * 1000)
    with pytest.raises(OperationalError):
        patience.call(gone, "")
    assert patience.is_over
    left = len(gone.errors)
    with pytest.raises(OperationalError):
        patience.call(gone, "")
    assert len(gone.errors) == left - 1


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("SELECT 1", {}, Exception("database is locked")),
        IntegrityError(None, None, Exception("duplicate key")),
        wrapped(ValueError("too long")),
        StorageInternalError("no cause"),
    ],
)
def test_other_failures_are_not_waited_for(error: Any) -> None:
    assert not is_away(error)
    with pytest.raises(type(error)):
        Patience(60).call(Steps(error), "")


def test_without_patience_nothing_is_waited_for() -> None:
    with pytest.raises(OperationalError):
        Patience().call(Steps(AWAY), "")


def test_a_wait_obeys_signals() -> None:
    with interruptible(signal.SIGTERM), pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        Patience(60, tell=lambda *_: os.kill(os.getpid(), signal.SIGTERM)).call(Steps(*[AWAY] * 1000), "")


def patient_study(folder: Path) -> tuple[optuna.Study, Storage]:
    storage = open_storage(parse_url(f"sqlite:///{folder}/a.db"))
    assert isinstance(storage, Storage)
    assert patience_of(optuna.create_study(storage=storage, study_name="s")).seconds == 0, "a file does not go away"
    storage.patience = Patience(5, tell=lambda *_: None)
    return optuna.load_study(study_name="s", storage=storage), storage


def breaking_after(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the next call of that name be carried out, but not confirmed."""
    whole: Callable[..., Any] = getattr(RDBStorage, name)

    def call(*arguments: Any) -> Any:
        monkeypatch.setattr(RDBStorage, name, whole)
        whole(*arguments)
        raise AWAY

    monkeypatch.setattr(RDBStorage, name, call)


def test_a_result_that_was_stored_but_not_confirmed_is_not_stored_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage = patient_study(tmp_path)
    trial = study.ask()
    breaking_after("set_trial_state_values", monkeypatch)
    study.tell(trial, 1.0)
    (told,) = study.get_trials()
    assert (told.state, told.values) == (TrialState.COMPLETE, [1.0])
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(told._trial_id, TrialState.COMPLETE, [1.0])


def test_another_s_result_is_not_taken_for_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage = patient_study(tmp_path)
    number = study.ask()._trial_id
    whole = RDBStorage.set_trial_state_values

    def fail_it_meanwhile(*arguments: Any) -> bool:
        monkeypatch.setattr(RDBStorage, "set_trial_state_values", whole)
        whole(storage, number, TrialState.FAIL)
        raise AWAY

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", fail_it_meanwhile)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(number, TrialState.COMPLETE, [1.0])


def test_hearts_beat_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage = patient_study(tmp_path)
    number = study.ask()._trial_id
    whole = RDBStorage.record_heartbeat
    beats = Steps(AWAY, AWAY)

    def beat(*arguments: Any) -> None:
        beats()
        whole(*arguments)

    monkeypatch.setattr(RDBStorage, "record_heartbeat", beat)
    storage.record_heartbeat(number)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM trial_heartbeats").scalar() == 1


def test_no_heart_is_missed_right_after_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage = patient_study(tmp_path)
    trial = study.ask()
    storage.record_heartbeat(trial._trial_id)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1000 seconds')")
    assert storage._get_stale_trial_ids(1) == [trial._trial_id]
    assert storage.patience.call(Steps(AWAY), "") == "done"
    assert storage._get_stale_trial_ids(1) == []
    monkeypatch.setattr(outages, "SETTLING_SECONDS", 0)
    assert storage._get_stale_trial_ids(1) == [trial._trial_id]
