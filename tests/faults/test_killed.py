"""kill -9 of a running `optimize` in each phase, then a resume: totals are right, nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import psutil
import pytest
from cases import mostly_slow
from killing import run_killed, start
from study_text import study_text

from nasopt.execution.search import remaining_budget
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.samplers.history import parent_of, proposed_params

if TYPE_CHECKING:
    from conftest import NewPlace, Place

pytestmark = pytest.mark.integration
MOMENTS = ("training", "measuring", "writing", "announced", "telling")
USUAL = {("sqlite", "training"), ("sqlite", "telling"), ("postgresql", "telling")}
"""Only what is killed while it tells can leave a database something half done, and each database something else."""
IN_SQLITE = pytest.mark.parametrize("new_place", mostly_slow(["sqlite", "postgresql"], ("sqlite",)), indirect=True)
COMPLETE, FAIL, RUNNING = (getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "FAIL", "RUNNING"))


def assert_all_different(trials: list[optuna.trial.FrozenTrial]) -> None:
    complete = [trial for trial in trials if trial.state == COMPLETE]
    assert len({(json.dumps(t.params, sort_keys=True), parent_of(t)) for t in complete}) == len(complete)


@pytest.mark.parametrize(
    ("begun_anywhere", "moment"),
    [
        pytest.param(where, moment, marks=() if (where, moment) in USUAL else pytest.mark.slow)
        for where in ("sqlite", "postgresql")
        for moment in MOMENTS
    ],
    indirect=["begun_anywhere"],
)
def test_a_trial_that_was_killed_is_failed_and_tried_once_more(begun_anywhere: Place, moment: str) -> None:
    before = begun_anywhere.trials()
    run_killed(moment, "study", "optimize", *begun_anywhere.options)
    assert [trial.state for trial in begun_anywhere.trials()] == [COMPLETE, COMPLETE, RUNNING]
    begun_anywhere.optimize(2)
    trials = begun_anywhere.trials()
    assert [trial.state for trial in trials] == [COMPLETE, COMPLETE, FAIL, COMPLETE, COMPLETE]
    assert [trial.values for trial in trials[:2]] == [trial.values for trial in before]
    killed, retried = trials[2:4]
    assert killed.user_attrs[attributes.FAILURE] == "interrupted: its process is gone"
    assert retried.user_attrs[attributes.RETRY_OF] == killed.number
    assert retried.params == proposed_params(killed)
    assert parent_of(retried) == parent_of(killed)
    assert [trial.user_attrs.get(attributes.RETRY_OF) for trial in trials].count(2) == 1
    assert_all_different(trials)
    assert remaining_budget(begun_anywhere.open(), 8) == 5
    begun_anywhere.assert_tidy()


def test_a_trial_that_was_told_is_not_done_again(begun_anywhere: Place) -> None:
    run_killed("told", "study", "optimize", *begun_anywhere.options)
    told = begun_anywhere.trials()
    assert [trial.state for trial in told] == [COMPLETE] * 3
    begun_anywhere.optimize(1)
    trials = begun_anywhere.trials()
    assert [trial.state for trial in trials] == [COMPLETE] * 4
    assert [trial.values for trial in trials[:3]] == [trial.values for trial in told]
    assert_all_different(trials)
    begun_anywhere.assert_tidy()


@IN_SQLITE
def test_killed_while_the_base_model_is_prepared(created_anywhere: Place) -> None:
    run_killed("base model", "study", "optimize", *created_anywhere.options)
    assert created_anywhere.trials() == []
    created_anywhere.optimize(1)
    base, child = created_anywhere.trials()
    assert (base.state, child.state) == (COMPLETE, COMPLETE)
    assert base.user_attrs[attributes.IS_BASE]
    created_anywhere.assert_tidy()


@IN_SQLITE
@pytest.mark.parametrize("moment", mostly_slow(["measuring", "telling"], ("telling",)))
def test_a_base_model_that_was_killed_is_tried_again_and_compared_with(created_anywhere: Place, moment: str) -> None:
    run_killed(moment, "study", "optimize", *created_anywhere.options)
    created_anywhere.optimize(1)
    killed, base, child = created_anywhere.trials()
    assert [trial.state for trial in (killed, base, child)] == [FAIL, COMPLETE, COMPLETE]
    assert killed.user_attrs[attributes.FAILURE] == "interrupted: its process is gone"
    assert base.user_attrs[attributes.RETRY_OF] == 0
    opened = created_anywhere.open()
    assert queries.base_of(opened.study).number == base.number
    assert (parent_of(child), remaining_budget(opened, 8)) == (base.number, 7)
    created_anywhere.assert_tidy()


@pytest.mark.slow
def test_a_base_model_that_was_killed_twice(created_anywhere: Place) -> None:
    for _ in range(2):
        run_killed("measuring", "study", "optimize", *created_anywhere.options)
    created_anywhere.optimize(1)
    assert [trial.state for trial in created_anywhere.trials()] == [FAIL, FAIL, COMPLETE, COMPLETE]
    created_anywhere.assert_tidy()


@IN_SQLITE
def test_killed_while_sensitivities_are_found(
    tmp_path: Path, tiny_bert: Path, sentiment: Path, new_place: NewPlace
) -> None:
    path = tmp_path / "tiny.toml"
    options = 'cost = "flops"\nexamples = 64\ntrials = 2\nladder = 2'
    path.write_text(study_text(tiny_bert, sentiment, options, method="fisher", base_epochs=2))
    place = new_place(path)
    run_killed("sensitivity", "study", "optimize", *place.options)
    assert [trial.state for trial in place.trials()] == [COMPLETE], "only the base model's trial has begun"
    place.optimize(2)
    assert [trial.state for trial in place.trials()] == [COMPLETE] * 3
    assert remaining_budget(place.open(), 2) == 0


def test_workers_end_with_their_parent(begun: Place) -> None:
    parent = start("never", "study", "optimize", *begun.options, "--n-trials", 1000, "--workers", 2)
    deadline = time.monotonic() + 120
    while not any(trial.state == RUNNING for trial in begun.trials()) and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = [child for child in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    done = [trial for trial in begun.trials() if trial.state == COMPLETE]
    begun.optimize(2)
    trials = begun.trials()
    assert len([trial for trial in trials if trial.state == COMPLETE]) == len(done) + 2
    assert all(t.user_attrs[attributes.FAILURE].startswith("interrupted") for t in trials if t.state == FAIL)
    assert_all_different(trials)
    begun.assert_tidy()


def test_two_commands_at_once_share_the_budget(begun_anywhere: Place) -> None:
    commands = [start("never", "study", "optimize", *begun_anywhere.options) for _ in range(2)]
    for command in commands:
        command.join(280)
    assert [command.exitcode for command in commands] == [0, 0]
    assert len(queries.finished_trials(begun_anywhere.open().study)) == 8
    assert remaining_budget(begun_anywhere.open(), 8) == 0
    begun_anywhere.assert_tidy()
