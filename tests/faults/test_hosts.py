"""Two machines on one study: what is made once for all is made by one of them, also where it is killed meanwhile."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hosts import start_on
from processes import NASOPT

from nasopt.records import names as attributes

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.integration
MADE = "fine-tuning the base model"


@pytest.mark.slow
def test_one_of_two_machines_makes_the_base_model(created_anywhere: Place) -> None:
    command = ("study", "optimize", *created_anywhere.options, "--n-trials", 1)
    started = [start_on(name, NASOPT, *command) for name in ("one", "two")]
    results = [process.wait() for process in started]
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    assert sum(result.stderr.count(MADE) for result in results) == 1
    trials = created_anywhere.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert sum(attributes.IS_BASE in trial.user_attrs for trial in trials) == 1
    created_anywhere.assert_tidy()


def test_another_machine_takes_over_where_one_is_killed(created: Place) -> None:
    command = ("study", "optimize", *created.options, "--n-trials", 1)
    killed = start_on("one", NASOPT, *command, "--quiet", moment="base model")
    assert killed.wait().returncode == -signal.SIGKILL
    result = start_on("two", NASOPT, *command).wait()
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(MADE) == 1
    assert [trial.state.name for trial in created.trials()] == ["COMPLETE"] * 2
