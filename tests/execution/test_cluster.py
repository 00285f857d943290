"""Workers on a Ray cluster: the desk, and two nodes of which one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from command_line import assert_refused, run, succeed

from nasopt.execution.cluster import Desk, DeskLine
from nasopt.execution.crew import Tickets
from nasopt.records import names as attributes
from nasopt.storage.rdb import open_storage, parse_url

RUNNING, COMPLETE, FAIL = (getattr(optuna.trial.TrialState, name) for name in ("RUNNING", "COMPLETE", "FAIL"))
SECONDS = 240


class Actor:
    """A desk as a worker sees it: each method has `remote`."""

    def __init__(self, desk: Desk) -> None:
        for name in ("tell", "take", "begin"):
            setattr(self, name, type("Method", (), {"remote": staticmethod(getattr(desk, name))}))


def test_a_worker_that_starts_again_gives_its_ticket_back() -> None:
    desk = Desk(Tickets(2, None))
    first, second = ({"host": "a", "pid": 1}, {"host": "b", "pid": 2})
    line = DeskLine(Actor(desk), 0, lambda answer: answer)
    assert desk.begin(0, first) is None
    assert line.take_ticket()
    line.send("ended", "x")
    assert line.take_ticket()
    assert desk.begin(0, second) == first  # the node was lost in the middle of the second trial
    assert [kind for kind, _ in desk.reports()] == ["ended", "replaced"]
    assert line.take_ticket()
    assert not line.take_ticket()
    assert desk.reports() == []


def test_workers_are_asked_to_end() -> None:
    desk = Desk(Tickets(2, None))
    line = DeskLine(Actor(desk), 0, lambda answer: answer)
    desk.end()
    for ask in (line.take_ticket, lambda: line.send("phase", (0, "training", 1, 2))):
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert desk.reports() == [("phase", (0, "training", 1, 2))]


@pytest.mark.integration
def test_without_ray_or_a_cluster_it_is_one_line(
    study_folder: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed("study", "create", write_study())
    monkeypatch.setattr("nasopt.execution.local.run_base", lambda opened, objective: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = ("study", "optimize", "tiny", "--engine", "ray", "--workers", "2")
    assert_refused(run(*command[:-2]), "--engine ray needs --workers N")
    try:
        import ray  # noqa: F401
    except ImportError:
        assert_refused(run(*command), "pip install 'nasopt[ray]'")
    else:
        assert_refused(run(*command), "--address auto: no Ray cluster there")
        assert_refused(run(*command, "--address", "127.0.0.1:1"), "no Ray cluster there", "refused")


@pytest.mark.slow
@pytest.mark.integration
def test_a_node_is_killed_and_the_study_completes(
    postgres_url: str, write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nasopt[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASOPT_STORAGE", postgres_url)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    succeed("study", "create", write_study())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        command = ["study", "optimize", "tiny", "--engine", "ray", "--address", cluster.address, "--workers", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "nasopt", *command], stderr=subprocess.PIPE, text=True, env=os.environ
        )
        _wait_for_a_trial_on(node, postgres_url, process)
        cluster.remove_node(node, allow_graceful=False)
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, errors
    assert "was lost; another one takes its place" in errors
    trials = _trials(postgres_url)
    lost = [trial for trial in trials if trial.state == FAIL]
    (reason,) = (trial.user_attrs[attributes.FAILURE] for trial in lost)
    # On one machine another worker may see first that the process is gone; of another machine only Ray tells.
    assert reason in ("interrupted: its node was lost", "interrupted: its process is gone")
    assert [trial.user_attrs.get(attributes.RETRY_OF) for trial in trials].count(lost[0].number) == 1
    assert [trial.state for trial in trials if trial not in lost] == [COMPLETE] * (len(trials) - 1)
    assert len(trials) == 1 + 8 + 1  # the base model, the search, and the one that was lost


def _trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tiny", storage=open_storage(parse_url(url))).trials


def _wait_for_a_trial_on(node: Any, url: str, process: subprocess.Popen[str]) -> None:
    """Waits until a worker of the node is at a trial."""
    (raylet,) = node.all_processes["raylet"]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        children = {child.pid for child in psutil.Process(raylet.process.pid).children(recursive=True)}
        running = [trial for trial in _trials(url) if trial.state == RUNNING]
        if any(trial.user_attrs.get(attributes.WORKER, {}).get("pid") in children for trial in running):
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no trial began on the node: {process.communicate()[1]}")
