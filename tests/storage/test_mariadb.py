"""The whole way on a real MariaDB: create, optimize, resume, look, delete, several workers, a restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import Result, run
from mariadb import MariaDB

from nasopt.storage.ownership import Database
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.training import loop

pytestmark = pytest.mark.integration
COMPLETE = optuna.trial.TrialState.COMPLETE
AWAY_SECONDS = 2.0


@pytest.fixture
def study(
    mariadb_url: str, write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs `nasopt study ...` on a new database that holds the tiny study; never prints the password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASOPT_STORAGE", mariadb_url)

    def command(*arguments: object) -> Result:
        result = run("study", *arguments)
        assert MariaDB.password not in result.out + result.err
        return result

    created = command("create", write_study())
    assert created.code == 0, created.err
    return command


def load(url: str) -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage=open_storage(parse_url(url)))


def assert_all_different(trials: list[optuna.trial.FrozenTrial]) -> None:
    kinds = {(json.dumps(trial.params, sort_keys=True), trial.user_attrs["parent"]) for trial in trials}
    assert len(kinds) == len(trials)


def test_a_study_from_its_file_to_its_end(study: Callable[..., Result], tmp_path: Path) -> None:
    assert study("optimize", "tiny", "--n-trials", 2).code == 0
    first = json.loads(study("trials", "tiny", "-f", "json").out)
    assert study("optimize", "tiny", "--n-trials", 1).code == 0
    trials = json.loads(study("trials", "tiny", "-f", "json").out)
    assert trials[:3] == first
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert study("pareto", "tiny").code == 0
    exported = study("export", "tiny", "--best", "", "--to", tmp_path / "model")
    assert exported.code == 0, exported.err
    assert study("delete", "tiny", "--yes").code == 0
    assert json.loads(study("list", "-f", "json").out) == []


def test_one_database_by_two_names(mariadb_url: str) -> None:
    """The server says which one it is, whatever the URL calls it."""
    urls = (mariadb_url, mariadb_url.replace("mariadb://", "mysql+pymysql://"))
    first, second = (Database.of(open_storage(parse_url(url))).key for url in urls)
    assert first == second
    assert first.startswith("mysql:")
    assert "localhost" not in first


@pytest.mark.slow
def test_several_workers_share_the_trials(study: Callable[..., Result], mariadb_url: str) -> None:
    result = study("optimize", "tiny", "--n-trials", 5, "--workers", 2)
    assert result.code == 0, result.err
    trials = load(mariadb_url).trials
    assert [trial.state for trial in trials] == [COMPLETE] * 6
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials[1:]}) == 2
    assert_all_different(trials)


@pytest.mark.slow
def test_a_server_that_restarts_in_a_trial(
    study: Callable[..., Result], mariadb_url: str, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study("optimize", "tiny", "--n-trials", 1).code == 0
    step = loop._Run._step
    starting: list[threading.Timer] = []

    def step_and_restart(*arguments: Any) -> None:
        if not starting:
            mariadb.stop()
            starting.append(threading.Timer(AWAY_SECONDS, mariadb.start))
            starting[0].start()
        step(*arguments)

    monkeypatch.setattr(loop._Run, "_step", step_and_restart)
    try:
        result = study("optimize", "tiny", "--n-trials", 2)
    finally:
        starting[0].join()
    assert result.code == 0, result.err
    assert result.err.count("the database is back after") == 1
    trials = load(mariadb_url).trials
    assert [trial.state for trial in trials] == [COMPLETE] * 4
    assert_all_different(trials)
