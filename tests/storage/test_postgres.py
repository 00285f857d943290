"""The whole way on a real PostgreSQL: create, optimize, resume, look, export, delete, several workers, an outage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import Result, run
from postgres import PASSWORD, Server

import nasopt
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.study import open_study
from nasopt.training import loop

pytestmark = pytest.mark.integration
COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL
Command = Callable[..., Result]


@pytest.fixture
def command(
    postgres_url: str, write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs `nasopt study ...` on a new database that holds the tiny study; never prints the password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASOPT_STORAGE", postgres_url)

    def study(*arguments: object) -> Result:
        result = run("study", *arguments)
        assert PASSWORD not in result.out + result.err
        return result

    created = study("create", write_study())
    assert created.code == 0, created.err
    return study


def trials_of(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command("trials", "tiny", "-f", "json").out)
    return found


def load(url: str) -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage=open_storage(parse_url(url)))


def test_a_study_that_is_opened_for_reading_refuses_changes(command: Command, postgres_url: str) -> None:
    opened = open_study(parse_url(postgres_url), "tiny", read_only=True)
    assert opened.study.trials == []
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        opened.study.set_user_attr("a", 1)
    assert "read-only transaction" in str(caught.value.__cause__)
    open_study(parse_url(postgres_url), "tiny").study.set_user_attr("a", 1)


def test_a_study_from_its_file_to_its_end(command: Command, tmp_path: Path) -> None:
    assert command("optimize", "tiny", "--n-trials", 2).code == 0
    first = trials_of(command)
    assert command("optimize", "tiny", "--n-trials", 2).code == 0
    trials = trials_of(command)
    assert trials[:3] == first
    assert [(trial["number"], trial["state"]) for trial in trials] == [(number, "COMPLETE") for number in range(5)]
    identities = {(json.dumps(trial["params"], sort_keys=True), trial["parent"]) for trial in trials}
    assert len(identities) == 5
    artifacts = tmp_path / "nasopt-artifacts" / "tiny"
    assert json.loads(command("show", "tiny", "-f", "json").out)["artifacts"] == str(artifacts)
    assert json.loads(command("list", "-f", "json").out)[0]["name"] == "tiny"
    assert command("pareto", "tiny").code == 0
    result = command("export", "tiny", "--best", "", "--to", tmp_path / "model")
    assert result.code == 0, result.err
    model, _ = nasopt.load(tmp_path / "model")
    assert model.num_parameters() > 0
    assert command("delete", "tiny", "--yes").code == 0
    assert json.loads(command("list", "-f", "json").out) == []
    assert not artifacts.exists()


@pytest.mark.slow
def test_several_workers_share_the_trials(command: Command, postgres_url: str) -> None:
    result = command("optimize", "tiny", "--n-trials", 5, "--workers", 2)
    assert result.code == 0, result.err
    trials = load(postgres_url).trials
    assert [trial.state for trial in trials] == [COMPLETE] * 6
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials[1:]}) == 2
    assert len({(json.dumps(t.params, sort_keys=True), t.user_attrs["parent"]) for t in trials}) == 6


def test_the_dashboard_serves_the_studies(command: Command) -> None:
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "nasopt", "dashboard", "--port", str(port)], stderr=subprocess.PIPE, env=os.environ
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    studies = json.load(answer)["study_summaries"]
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert [study["study_name"] for study in studies] == ["tiny"]
    assert PASSWORD.encode() not in errors


def test_a_server_that_goes_away_ends_optimize_cleanly_and_nothing_is_lost(
    command: Command, postgres_url: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("optimize", "tiny", "--n-trials", 1).code == 0
    before = trials_of(command)
    step = loop._Run._step

    def step_without_server(*arguments: Any) -> None:
        postgres_server.stop()
        step(*arguments)

    monkeypatch.setattr(loop._Run, "_step", step_without_server)
    try:
        result = command("optimize", "tiny", "--n-trials", 3, "--quiet", "--database-wait", 1)
    finally:
        monkeypatch.setattr(loop._Run, "_step", step)
        postgres_server.start()
    assert result.code == 1
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert "the database failed" in result.err
    assert "goes on where this stopped" in result.err
    result = command("optimize", "tiny", "--n-trials", 2)
    assert result.code == 0, result.err
    after = trials_of(command)
    assert after[: len(before)] == before
    assert [trial["state"] for trial in after[len(before) :]] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert after[len(before)]["failure"] == "interrupted: its end could not be recorded"
    assert after[-2]["params"] == load(postgres_url).trials[-2].system_attrs["fixed_params"]


def test_an_unreachable_server_is_one_line(command: Command, postgres_url: str) -> None:
    for storage in (postgres_url.replace("@", "@127.0.0.1:1"), postgres_url.replace("/study", "/nosuch")):
        result = command("list", "--storage", storage)
        assert result.code == 2
        assert len(result.err.strip().splitlines()) == 1
        assert "cannot be opened" in result.err
    result = run("study", "list", "--storage", postgres_url.replace(PASSWORD, "not-the-password"))
    assert (result.code, "password authentication failed" in result.err) == (2, True)
    assert "not-the-password" not in result.err
