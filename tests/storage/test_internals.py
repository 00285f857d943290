"""The private names of Optuna and optuna-dashboard are still there, and still do what they are used for.

A failure here after an upgrade names what is gone and what it was for: see `nasopt/storage/internals.py`.
"""

from __future__ import annotations

import ast
import inspect
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from nasopt.storage import internals
from nasopt.storage.rdb import GRACE_SECONDS, open_storage, parse_url

PURPOSES = {
    "_storage": "deleting a study, reading its attachments, writing attributes of other processes' trials",
    "_study_id": "writing notes and asking for stale trials",
    "_trial_id": "naming notes, and writing attributes of other processes' trials",
    "_backend": "finding a study's artifact folder beside its database, and asking for stale trials",
    "_get_stale_trial_ids": "failing the trials of other hosts with a reason",
    "_create_new_trial": "waiting for a database that is away",
    "_set_trial_param": "waiting for a database that is away",
    "_get_trials": "waiting for a database that is away",
    "_get_best_trial_id": "waiting for a database that is away",
    "_note": "making the dashboard quick with many notes",
    "_serializer": "making the dashboard quick with many notes",
}


def new_study(folder: Path) -> optuna.Study:
    return optuna.create_study(storage=open_storage(parse_url(f"sqlite:///{folder}/a.db")))


def require(owner: object, name: str) -> None:
    version = f"optuna {optuna.__version__}"
    assert hasattr(owner, name), f"{version}: {owner!r} has no {name} any more; it was for {PURPOSES[name]}"


def test_optunas_private_names_are_there(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    trial = study.ask()
    (frozen,) = study.get_trials()
    for name in ("_storage", "_study_id"):
        require(study, name)
    require(study._storage, "_backend")
    for name in (internals.STALE_TRIALS, *internals.CALLS_OF_A_CACHE):
        require(optuna.storages.RDBStorage, name)
    require(trial, "_trial_id")
    require(frozen, "_trial_id")


def test_the_dashboards_private_names_are_there() -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    from importlib import import_module

    for name, function, arguments in (
        ("_note", "get_note_from_system_attrs", ["system_attrs", "trial_id"]),
        ("_serializer", "list_trial_artifacts", ["study_system_attrs", "trial_system_attrs", "trial"]),
    ):
        message = (
            f"optuna-dashboard {dashboard.__version__}: {name}.{function} has changed; it was for {PURPOSES[name]}"
        )
        try:
            found = getattr(import_module(f"optuna_dashboard.{name}"), function)
        except (ImportError, AttributeError):
            pytest.fail(message)
        if found.__module__.startswith("optuna_dashboard"):  # else an earlier test has put ours in its place
            assert list(inspect.signature(found).parameters) == arguments, message


def test_every_private_name_has_a_purpose_here() -> None:
    tree = ast.parse(Path(internals.__file__).read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {name for name in used if name.startswith("_") and name.isidentifier()} == set(PURPOSES)


def test_a_studys_database_is_found_behind_the_cache(tmp_path: Path) -> None:
    database = internals.database_of(new_study(tmp_path))
    assert database is not None, f"Optuna's cache hides the database; {PURPOSES['_backend']}"
    assert database.url == f"sqlite:///{tmp_path}/a.db"
    assert internals.database_of(optuna.create_study()) is None


def test_a_trial_is_stale_once_its_heartbeat_has_stopped(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    trial = study.ask()
    database = internals.database_of(study)
    assert database is not None
    database.record_heartbeat(trial._trial_id)
    assert not internals.is_stale(study, study.get_trials()[0])
    long_ago = datetime.now() - timedelta(days=2, seconds=GRACE_SECONDS)
    with database.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = :then"), {"then": long_ago})
    assert internals.is_stale(study, study.get_trials()[0]), PURPOSES["_get_stale_trial_ids"]


def test_trials_in_memory_are_never_stale() -> None:
    study = optuna.create_study()
    study.ask()
    assert not internals.is_stale(study, study.get_trials()[0])


def test_another_process_trial_gets_its_attribute(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    study.ask()
    internals.set_trial_user_attr(study, study.get_trials()[0], "failure", "gone")
    assert study.get_trials()[0].user_attrs == {"failure": "gone"}


def test_system_attributes_of_a_study_keep_their_order() -> None:
    study = optuna.create_study()
    internals.set_study_system_attrs(study.ask(), {"b": 1, "a": 2})
    stored = internals.storage_of(study).get_study_system_attrs(study._study_id)
    assert list(stored.items()) == [("b", 1), ("a", 2)]


def test_the_dashboard_reads_by_our_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna_dashboard")
    from optuna_dashboard import _note, _serializer

    meta = {"artifact_id": "1", "filename": "a", "mimetype": "text/plain", "encoding": None}
    trial = FrozenTrial(0, TrialState.RUNNING, None, datetime.now(), None, {}, {}, {}, {}, {}, 7)
    given: list[dict[str, Any]] = []

    def original(study_attrs: dict[str, Any], trial_attrs: dict[str, Any], trial: FrozenTrial) -> list[Any]:
        given.append(study_attrs)
        return list(trial_attrs)

    monkeypatch.setattr(_note, "get_note_from_system_attrs", None)
    monkeypatch.setattr(_serializer, "list_trial_artifacts", original)
    internals.make_dashboard_linear(lambda attrs, number: {"version": number, "body": attrs})
    assert _note.get_note_from_system_attrs({"x": 1}, 3) == {"version": 3, "body": {"x": 1}}
    attrs = {"artifacts:1": json.dumps(meta)}
    assert _serializer.list_trial_artifacts({"artifacts:7:2": "{}"}, attrs, trial) == ["artifacts:1"]
    assert given == [{}], "the study's attributes are looked through for each trial"
