"""The lock that says who holds it, held by real processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nasopt.host import holding
from nasopt.host.holding import held
from nasopt.host.interruption import interruptible

HOLDER = """
import sys, time
from pathlib import Path
from nasopt.host.holding import held, name_study
name_study("first")
with held(Path(sys.argv[1])) as hold:
    print("held", flush=True)
    while not hold.suspended:
        time.sleep(0.05)
    print("suspended in between", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_who_waits_says_for_whom_and_obeys_sigterm(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.3)
    holder.send_signal(signal.SIGSTOP)
    wait_until(lambda: "suspended" in holding.holder(tmp_path / "lock"))

    def end_at_the_warning(record: logging.LogRecord) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(holding.logger, "filters", [end_at_the_warning])
    with (
        interruptible(signal.SIGTERM),
        pytest.raises(KeyboardInterrupt, match="SIGTERM"),
        caplog.at_level("WARNING", "nasopt"),
        held(tmp_path / "lock"),
    ):
        raise AssertionError("two hold it")
    (message,) = caplog.messages
    assert f"process {holder.pid} holds it for the study 'first' since 20" in message
    assert f"kill -CONT {holder.pid}" in message


def test_ctrl_z_gives_the_lock_up(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGTSTP)
    with held(tmp_path / "lock") as hold:  # else it would wait for ever
        assert f"process {os.getpid()} " in holding.holder(tmp_path / "lock")
        holder.send_signal(signal.SIGCONT)
    assert not hold.suspended
    assert holder.stdout is not None
    assert holder.stdout.readline() == "suspended in between\n"
    wait_until(lambda: f"process {holder.pid} " in holding.holder(tmp_path / "lock"))


def test_a_holder_that_was_killed_is_not_named(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert f"process {holder.pid} " in holding.holder(tmp_path / "lock")
    holder.kill()
    holder.wait()
    assert "another process" in holding.holder(tmp_path / "lock")
    with held(tmp_path / "lock"):
        pass
    assert not list(tmp_path.glob("lock.holder-*"))
