"""Which process is meant, and whether it lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nasopt.host import identity
from nasopt.host.identity import host, is_gone, is_stopped, worker_identity

REPORT = """
import json
from nasopt.host.identity import worker_identity
print(json.dumps(worker_identity()), flush=True)
input()
"""


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], dict[str, str | int | float]]]:
    """Another process, and its identity as it says itself."""
    arguments = [sys.executable, "-c", REPORT]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
        process.kill()


def test_another_process(other: tuple[subprocess.Popen[str], dict[str, str | int | float]]) -> None:
    process, worker = other
    assert worker["host"] == host()
    assert not is_gone(worker)
    assert is_gone({**worker, "started": float(worker["started"]) - 60})  # its number was another's before
    assert not is_stopped(worker)
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while not is_stopped(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_stopped(worker)
    assert not is_gone(worker)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(worker)  # a zombie
    process.wait()
    assert is_gone(worker)


def test_machines_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []
    for boot in ("b0", "b1"):
        (tmp_path / boot).write_text(f"{boot}\n")
        monkeypatch.setattr(identity, "_BOOT_ID", tmp_path / boot)
        hosts.append(host.__wrapped__())
    assert hosts[0].replace("b0", "b1") == hosts[1] != hosts[0]
    assert not is_gone({"host": hosts[0], "pid": 2**22 + 1, "started": 1.0})


def test_a_clock_that_is_set_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = worker_identity()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: 3600.0)  # what a step of the wall clock moves
    monkeypatch.setattr(time, "time", lambda: 0.0)
    identity._identity.cache_clear()
    assert worker_identity() == mine
    assert not is_gone(mine)


def test_a_process_that_is_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> tuple[float, str]:
        raise FileNotFoundError

    parent = {"host": host(), "pid": os.getppid(), "started": 1.0}
    assert is_gone(parent)
    monkeypatch.setattr(identity, "_start_and_state", hidden)  # as under hidepid=2
    assert not is_gone(parent)
