"""Work that stands still while others measure: real processes and real locks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nasopt.host import pausing
from nasopt.host.holding import held
from nasopt.host.interruption import interruptible
from nasopt.host.pausing import at_work, pause_for_measurements, stand_by, wait_for_quiet

WORKER = """
import sys, time
from pathlib import Path
from nasopt.host import pausing
lock, steps = Path(sys.argv[1]), Path(sys.argv[2])
with pausing.at_work([lock]), pausing.at_work([lock, lock.with_name("other")]):  # a trial, and its preparation
    for step in range(10**6):
        pausing.pause_for_measurements()
        steps.write_text(str(step))
        time.sleep(0.01)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "measurement.lock"


@contextmanager
def working(lock: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Another process that is at work, and the file in which it counts its steps."""
    steps = lock.with_name("steps")
    with subprocess.Popen([sys.executable, "-c", WORKER, str(lock), str(steps)]) as process:
        try:
            wait_until_later_than(steps, 0)
            yield process, steps
        finally:
            process.kill()


def count(steps: Path) -> int:
    return int(steps.read_text() or 0) if steps.exists() else 0


def wait_until_later_than(steps: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while count(steps) <= step:
        assert time.monotonic() < deadline, "it does not go on"
        time.sleep(0.01)


def test_who_is_at_work_stands_still_while_another_measures_and_then_goes_on(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "QUIET_SECONDS", 60.0)
    with working(lock) as (process, steps):
        for _ in range(2):
            with held(lock):
                began = time.monotonic()
                wait_for_quiet(lock)
                assert time.monotonic() - began < 30, "it holds on to some of its work"
                before = count(steps)
                time.sleep(0.3)
                assert count(steps) == before
            wait_until_later_than(steps, before)
        assert process.poll() is None


def test_a_step_without_end_is_waited_for_a_few_seconds(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "QUIET_SECONDS", 0.3)
    with working(lock) as (process, _):
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with held(lock):
            wait_for_quiet(lock)
        assert time.monotonic() - began >= 0.3


def test_who_was_killed_is_in_nobodys_way(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "QUIET_SECONDS", 60.0)
    with working(lock) as (process, _):
        process.send_signal(signal.SIGSTOP)  # its lock is held, whatever it does
        process.kill()
    began = time.monotonic()
    with held(lock):
        wait_for_quiet(lock)
    assert time.monotonic() - began < 30


def test_who_waits_for_others_is_in_nobodys_way(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "QUIET_SECONDS", 0.0)
    told: list[str] = []
    monkeypatch.setattr(pausing.logger, "debug", lambda message, *_: told.append(message))
    with at_work([lock]):
        wait_for_quiet(lock)
        assert told.pop().startswith("others compute")
        stand_by()
        wait_for_quiet(lock)
        assert not told
        pause_for_measurements()  # it works again
        wait_for_quiet(lock)
        assert told
    told.clear()
    wait_for_quiet(lock)
    assert not told


def test_a_holder_that_does_not_end_stops_nobody_for_good(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "PAUSE_SECONDS", 0.3)
    began = time.monotonic()
    with held(lock), at_work([lock]):  # its own lock is as good as another's: flock asks for files, not for processes
        assert time.monotonic() - began >= 0.3
        for _ in range(10):
            pause_for_measurements()
        assert time.monotonic() - began < 3  # it does not pause each time


def test_a_pause_obeys_sigterm(lock: Path) -> None:
    with interruptible(signal.SIGTERM), held(lock):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), at_work([lock]):
            raise AssertionError("it began to work")
    began = time.monotonic()
    with held(lock):
        wait_for_quiet(lock)  # nothing is left of it
    assert time.monotonic() - began < pausing.QUIET_SECONDS


def test_a_step_costs_microseconds(lock: Path) -> None:
    with held(lock):
        pass  # the file is there
    with at_work([lock]):
        began = time.process_time()
        for _ in range(1000):
            pause_for_measurements()
        assert (time.process_time() - began) / 1000 < 2e-4
