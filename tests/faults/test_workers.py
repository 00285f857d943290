"""Workers of one command that are killed (-9) in each phase, and trials that kill their worker again and again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psutil
import pytest
import torch
from killing import worker_killed
from processes import CONTEXT, NASOPT, start_code

from nasopt.architecture.genotype import FFN_STEP
from nasopt.execution import local
from nasopt.execution.search import remaining_budget
from nasopt.measurement.measured.latency import device_lock
from nasopt.records import names as attributes
from nasopt.records.interruption import DEATHS
from nasopt.samplers.history import parent_of

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.integration
COMPLETE, FAIL, RUNNING = (getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "FAIL", "RUNNING"))
MOMENTS = ("training", "measuring", "writing", "announced", "telling", "told")


def assert_all_different(trials: list[optuna.trial.FrozenTrial]) -> None:
    complete = [trial for trial in trials if trial.state == COMPLETE]
    assert len({(json.dumps(t.params, sort_keys=True), parent_of(t)) for t in complete}) == len(complete)


def kill(monkeypatch: pytest.MonkeyPatch, moment: str, flag: Path, deaths: int) -> None:
    """Kills the first workers that come to a moment; they are forked from a process that has imported everything."""
    monkeypatch.setattr(local, "run_in_process", partial(worker_killed, moment, flag, deaths))
    monkeypatch.setattr(local, "PROCESSES", CONTEXT)


@pytest.mark.parametrize(
    ("where", "moment"),
    [
        pytest.param(where, moment, marks=() if (where, moment) == ("begun", "training") else pytest.mark.slow)
        for where in ("begun", "begun_on_server")
        for moment in MOMENTS
    ],
)
def test_a_worker_that_is_killed_is_replaced(
    request: pytest.FixtureRequest, where: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Place = request.getfixturevalue(where)
    kill(monkeypatch, moment, tmp_path / "flag", 1)
    result = place.study("optimize", "--n-trials", 3, "--workers", 2)
    assert result.code == 0, result.err
    assert (tmp_path / "flag").stat().st_size == 1
    assert result.err.count("another one takes its place") == 1
    trials = place.trials()
    failed = [trial for trial in trials if trial.state == FAIL]
    assert [trial.user_attrs[attributes.FAILURE] for trial in failed] == (
        [] if moment == "told" else ["interrupted: its process is gone"]
    )
    tried_again = [trial.user_attrs[attributes.RETRY_OF] for trial in trials if attributes.RETRY_OF in trial.user_attrs]
    assert tried_again == [trial.number for trial in failed]
    # One that was killed once its trial was told could not say so, and its leave is given to another.
    assert len([trial for trial in trials if trial.state == COMPLETE]) == 2 + 3 + (moment == "told")
    assert_all_different(trials)
    place.assert_tidy()


def test_a_trial_that_kills_its_worker_again_and_again_is_given_up(
    begun: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begun.open().study
    study.enqueue_trial({**study.get_trials()[1].params, "ffn_0": FFN_STEP}, user_attrs={attributes.PARENT: 1})
    kill(monkeypatch, "poison", tmp_path / "flag", 100)
    left = remaining_budget(begun.open(), 8)
    result = begun.study("optimize", "--n-trials", 2, "--workers", 2)
    assert result.code == 0, result.err
    assert (tmp_path / "flag").stat().st_size == DEATHS
    trials = begun.trials()
    tries = [trial for trial in trials if trial.state == FAIL]
    assert [trial.user_attrs.get(attributes.RETRY_OF) for trial in tries] == [None, *(t.number for t in tries[:-1])]
    assert [trial.user_attrs.get(attributes.INTERRUPTED) for trial in tries] == [True, True, None]
    shown = json.loads(begun.study("trials", "-f", "json").out)
    assert shown[tries[-1].number]["failure"] == (
        "interrupted: its process is gone; given up, because 3 tries of it ended with their process"
    )
    assert remaining_budget(begun.open(), 8) <= left - 2
    begun.assert_tidy()


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_stand_still_while_another_process_measures(begun: Place, count: int) -> None:
    started = start_code(NASOPT, "study", "optimize", *begun.options, "--n-trials", 1000, "--workers", count)
    try:
        wait_until(lambda: len([trial for trial in begun.trials() if trial.state == RUNNING]) == count)
        process = psutil.Process(started.process.pid)
        workers = process.children(recursive=True) or [process]  # one works in the command's own process
        with device_lock(torch.device("cpu")):
            before = cpu_seconds(workers)
            time.sleep(1)
            assert cpu_seconds(workers) - before < 0.2
        wait_until(lambda: cpu_seconds(workers) - before > 0.5)
    finally:
        assert started.process.pid is not None
        os.kill(started.process.pid, signal.SIGTERM)
    assert started.wait(120).returncode == 1


def cpu_seconds(workers: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (worker.cpu_times() for worker in workers))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_record_what_was_under_way_when_they_are_asked_to_end(
    begun_anywhere: Place, number: signal.Signals
) -> None:
    started = start_code(NASOPT, "study", "optimize", *begun_anywhere.options, "--n-trials", 1000, "--workers", 2)
    wait_until(lambda: len([trial for trial in begun_anywhere.trials() if trial.state == RUNNING]) == 2)
    assert started.process.pid is not None
    os.kill(started.process.pid, number)
    ended = started.wait(120)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1] == "nasopt: interrupted; what was under way is tried again next time"
    assert "Traceback" not in ended.stderr
    stopped = begun_anywhere.trials()
    assert {trial.state for trial in stopped} <= {COMPLETE, FAIL}
    interrupted = [trial.number for trial in stopped if trial.state == FAIL]
    assert interrupted
    begun_anywhere.optimize(3)
    trials = begun_anywhere.trials()
    assert {trial.user_attrs.get(attributes.RETRY_OF) for trial in trials} - {None} == set(interrupted)
    assert_all_different(trials)
    begun_anywhere.assert_tidy()
