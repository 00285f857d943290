"""A PostgreSQL server that restarts, or ends, under `optimize`: it waits, and nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from processes import NASOPT, Started, start_code

from nasopt.records import names as attributes
from nasopt.samplers.history import parent_of
from nasopt.training import loop

if TYPE_CHECKING:
    from conftest import Place
    from postgres import Server

pytestmark = pytest.mark.integration
COMPLETE, FAIL, RUNNING = (getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "FAIL", "RUNNING"))
AWAY_SECONDS = 2.5


def restart(server: Server) -> threading.Thread:
    """Stops the server at once; the thread starts it again after a moment."""
    server.stop()
    later = threading.Timer(AWAY_SECONDS, server.start)
    later.start()
    return later


def until(met: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.1)


def optimizing(place: Place, *options: object) -> Started:
    """A command of its own that has a trial under way."""
    started = start_code(NASOPT, "study", "optimize", *place.options, *options)
    until(lambda: any(trial.state == RUNNING for trial in place.trials()))
    return started


def assert_waited_once(err: str) -> None:
    assert err.count("the database is away (") == 1, err
    assert err.count("waiting up to 300 s for it") == 1
    assert err.count("the database is back after") == 1
    assert "pass-word" not in err


def assert_all_complete(place: Place, count: int) -> None:
    trials = place.trials()
    assert [trial.state for trial in trials] == [COMPLETE] * count
    assert len({(json.dumps(trial.params, sort_keys=True), parent_of(trial)) for trial in trials}) == count
    place.assert_tidy()


def test_a_server_that_restarts_in_a_trial(
    begun_on_server: Place, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop._Run._step
    threads: list[threading.Thread] = []

    def step_and_restart(*arguments: Any) -> None:
        if not threads:
            threads.append(restart(postgres_server))
        step(*arguments)

    monkeypatch.setattr(loop._Run, "_step", step_and_restart)
    try:
        result = begun_on_server.study("optimize", "--n-trials", 2)
    finally:
        threads[0].join()
    assert result.code == 0, result.err
    assert_waited_once(result.err)
    assert_all_complete(begun_on_server, 4)


@pytest.mark.slow
def test_a_server_that_restarts_under_two_workers(begun_on_server: Place, postgres_server: Server) -> None:
    started = optimizing(begun_on_server, "--n-trials", 6, "--workers", 2)
    restart(postgres_server).join()
    result = started.wait()
    assert result.returncode == 0, result.stderr
    assert_waited_once(result.stderr)
    assert_all_complete(begun_on_server, 8)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_that_is_gone_for_good(begun_on_server: Place, postgres_server: Server, workers: int) -> None:
    options = ("--n-trials", 50, "--workers", workers, "--database-wait", 2, "--quiet")
    started = optimizing(begun_on_server, *options)
    postgres_server.stop()
    try:
        result = started.wait(60)
    finally:
        postgres_server.start()
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    (line,) = lines
    assert "the database failed: " in line
    assert "once it is back, `nasopt study optimize` goes on where this stopped" in line
    begun_on_server.optimize(1)
    failed = [trial for trial in begun_on_server.trials() if trial.state == FAIL]
    assert len(failed) <= workers
    assert all(trial.user_attrs[attributes.FAILURE].startswith("interrupted: ") for trial in failed)
    begun_on_server.assert_tidy()


def test_a_wait_that_is_interrupted(begun_on_server: Place, postgres_server: Server) -> None:
    started = optimizing(begun_on_server, "--n-trials", 50)
    postgres_server.stop()
    try:
        until(lambda: "the database is away" in started.err)
        assert started.process.pid is not None
        os.kill(started.process.pid, signal.SIGTERM)
        result = started.wait(30)
    finally:
        postgres_server.start()
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        1,
        "nasopt: interrupted; what was under way is tried again next time",
    )
    begun_on_server.optimize(1)
    begun_on_server.assert_tidy()
