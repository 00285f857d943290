"""Nothing left to propose is said when nobody can change it any more."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import optuna
import pytest

from nasopt.execution import exhaustion
from nasopt.execution.exhaustion import has_tried_everything, others_have_helped
from nasopt.host.identity import host
from nasopt.records.trial import TrialRecord
from nasopt.storage.rdb import open_storage, parse_url

OTHER = {"host": f"not-{host()}", "pid": 1, "started": 1.0}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    monkeypatch.setattr(exhaustion, "LOOK_SECONDS", 0.05)
    return optuna.create_study(storage=open_storage(parse_url(f"sqlite:///{tmp_path}/a.db")))


def begun(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    trial.set_user_attr("worker", OTHER)
    return trial


def empty(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """A trial that found nothing to propose."""
    trial = begun(study)
    TrialRecord(exhausted=True).write_to(trial)
    return study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def test_candidates_that_are_running_may_have_children(study: optuna.Study) -> None:
    study.tell(begun(study), 1.0)
    assert not has_tried_everything(study)
    running = begun(study)
    first = empty(study)
    assert not has_tried_everything(study)

    def complete() -> None:
        time.sleep(0.3)
        study.tell(running, 1.0)

    worker = threading.Thread(target=complete)
    worker.start()
    assert others_have_helped(study, first)
    worker.join()
    assert not has_tried_everything(study)
    last = empty(study)  # now that one has been seen, too
    assert has_tried_everything(study)
    assert not others_have_helped(study, last)


def test_a_candidate_that_fails_changes_nothing(study: optuna.Study) -> None:
    running = begun(study)
    last = empty(study)
    study.tell(running, state=optuna.trial.TrialState.FAIL)
    assert not others_have_helped(study, last)
    assert has_tried_everything(study)
