"""The settling of interrupted trials."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import MachineError
from nasopt.host.identity import host, is_gone, worker_identity
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.records.interruption import DEATHS
from nasopt.samplers.history import proposed_params
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.study import recovery
from nasopt.study.recovery import fail_interrupted, interrupt, settle_interrupted, was_given_up
from nasopt.trial.recording import record_machine_failure

GONE = {"host": host(), "pid": 2**22 + 1, "started": 1.0}
ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 1.0}


def new_study(folder: Path) -> optuna.Study:
    storage = open_storage(parse_url(f"sqlite:///{folder}/a.db"))
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def running(study: optuna.Study, worker: dict[str, object] | None) -> int:
    """The number of a running trial of a process."""
    study.enqueue_trial({"x": 1})
    trial = study.ask()
    trial.suggest_int("x", 0, 3)
    if worker is not None:
        trial.set_user_attr(attributes.WORKER, worker)
    return trial.number


def trial_of(study: optuna.Study, number: int) -> FrozenTrial:
    return study.get_trials()[number]


def test_identities() -> None:
    assert not is_gone(worker_identity())
    assert is_gone(GONE)
    assert is_gone({**worker_identity(), "started": 1.0})
    assert not is_gone(ELSEWHERE)


def test_the_trial_of_a_dead_process_is_failed_and_queued_once(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    number = running(study, GONE)
    for _ in range(2):
        settle_interrupted(study, tmp_path)
    failed, waiting = study.get_trials()
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs[attributes.FAILURE] == "interrupted: its process is gone"
    assert waiting.state == TrialState.WAITING
    assert waiting.user_attrs[attributes.RETRY_OF] == number
    assert was_given_up(study, number)
    assert queries.finished_trials(study) == []


def test_a_control_stays_the_control_that_it_was(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    marks = {"control": "first-1", "control_recipe": {"layers": [0]}, "control_depth": 1}
    study.enqueue_trial({}, user_attrs=marks)
    study.ask().set_user_attr(attributes.WORKER, GONE)
    settle_interrupted(study, tmp_path)
    waiting = trial_of(study, 1)
    assert waiting.state == TrialState.WAITING
    assert {name: waiting.user_attrs[name] for name in marks} == marks
    assert queries.finished_trials(study) == []


def test_workers_that_settle_at_once_queue_it_once(tmp_path: Path) -> None:
    number = running(new_study(tmp_path), GONE)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: settle_interrupted(new_study(tmp_path), tmp_path), range(6)))
    trials = new_study(tmp_path).get_trials()
    assert [trial.user_attrs.get(attributes.RETRY_OF) for trial in trials] == [None, number]


def test_a_trial_that_ends_its_process_is_retried_twice_and_then_failed(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    running(study, GONE)
    for _ in range(DEATHS - 1):
        settle_interrupted(study, tmp_path)
        settle_interrupted(study, tmp_path)
        assert len(study.get_trials(states=(TrialState.WAITING,))) == 1
        assert queries.finished_trials(study) == []
        study.ask().set_user_attr(attributes.WORKER, GONE)
    settle_interrupted(study, tmp_path)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * DEATHS
    assert [trial.user_attrs.get(attributes.RETRY_OF) for trial in trials] == [None, 0, 1]
    assert {proposed_params(trial)["x"] for trial in trials} == {1}
    last = trials[-1]
    assert last.user_attrs[attributes.FAILURE] == (
        "interrupted: its process is gone; given up, because 3 tries of it ended with their process"
    )
    assert queries.finished_trials(study) == [last]
    assert was_given_up(study, last.number)


def test_a_trial_that_is_stopped_on_purpose_is_always_retried(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    running(study, worker_identity())
    for tries in range(1, 3 * DEATHS):
        fail_interrupted(study, study.get_trials()[-1], "interrupted: SIGTERM")
        settle_interrupted(study, tmp_path)
        assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL] * tries + [TrialState.WAITING]
        study.ask().set_user_attr(attributes.WORKER, worker_identity())
    assert queries.finished_trials(study) == []


def test_a_trial_that_the_machine_stopped_is_always_retried(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    running(study, worker_identity())
    for tries in range(1, 3 * DEATHS):
        record_machine_failure(optuna.trial.Trial(study, study.get_trials()[-1]._trial_id), "the disk is full")
        study.tell(tries - 1, state=TrialState.FAIL)
        settle_interrupted(study, tmp_path)
        assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL] * tries + [TrialState.WAITING]
        study.ask()


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    with pytest.raises(MachineError, match="the study's artifact folder is gone"):
        settle_interrupted(study, tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_trial_that_names_no_process_has_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(tmp_path)
    number = running(study, None)
    settle_interrupted(study, tmp_path)
    assert trial_of(study, number).state == TrialState.RUNNING
    monkeypatch.setattr(recovery, "UNIDENTIFIED_GRACE", timedelta(0))
    settle_interrupted(study, tmp_path)
    assert trial_of(study, number).state == TrialState.FAIL


@pytest.mark.parametrize(("seconds", "state"), [(10, TrialState.RUNNING), (1000, TrialState.FAIL)])
def test_other_hosts_are_believed_while_their_heart_beats(tmp_path: Path, seconds: int, state: TrialState) -> None:
    study = new_study(tmp_path)
    number = running(study, ELSEWHERE)
    storage = open_storage(parse_url(f"sqlite:///{tmp_path}/a.db"))
    storage.record_heartbeat(study.get_trials()[number]._trial_id)
    with storage.engine.begin() as connection:
        late = f"UPDATE trial_heartbeats SET heartbeat = datetime('now', '-{seconds} seconds')"
        connection.execute(sqlalchemy.text(late))
    settle_interrupted(study, tmp_path)
    assert trial_of(study, number).state == state
    assert ("no sign of life from elsewhere" in trial_of(study, number).user_attrs.get(attributes.FAILURE, "")) == (
        state == TrialState.FAIL
    )


def test_a_trial_that_ended_meanwhile_is_left_alone(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    number = running(study, GONE)
    seen = trial_of(study, number)
    study.tell(number, 1.0)
    fail_interrupted(study, seen, "too late")
    assert trial_of(study, number).state == TrialState.COMPLETE
    assert not was_given_up(study, number)


def test_the_trial_of_a_lost_node_is_failed_without_waiting_for_its_heartbeat(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    lost, other = running(study, ELSEWHERE), running(study, {**ELSEWHERE, "pid": 2})
    interrupt(study, ELSEWHERE)
    settle_interrupted(study, tmp_path)
    assert trial_of(study, lost).state == TrialState.FAIL
    assert trial_of(study, lost).user_attrs[attributes.FAILURE] == "interrupted: its node was lost"
    assert trial_of(study, other).state == TrialState.RUNNING
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    assert waiting.user_attrs[attributes.RETRY_OF] == lost
