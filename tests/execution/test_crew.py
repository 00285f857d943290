"""Workers that report, die and are replaced: real processes, which do nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from nasopt.errors import WorkerFailedError
from nasopt.execution.crew import REPLACEMENTS, Crew, Line, Tickets

Work = Callable[[Connection, int, Path], None]


def work(connection: Connection, index: int, folder: Path) -> None:
    """Trials that take no time."""
    line = Line(connection, lambda: None)
    while line.take_ticket():
        line.send("ended", index)


def work_or_die(connection: Connection, index: int, folder: Path) -> None:
    """Worker 0 is killed at its second trial, once, after the others have no more to do."""
    while index and not (folder / "died").exists():  # or the others might do all the work before it begins
        time.sleep(0.01)
    if (folder / "died").exists():
        work(connection, index, folder)
        return
    line = Line(connection, lambda: None)
    assert line.take_ticket()
    line.send("ended", index)
    assert line.take_ticket()
    (folder / "died").touch()
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def die_now_and_then(connection: Connection, index: int, folder: Path) -> None:
    """Is killed after every eighth trial."""
    line = Line(connection, lambda: None)
    for _ in range(8):
        if not line.take_ticket():
            return
        line.send("ended", index)
    die(connection, index, folder)


def die(connection: Connection, index: int, folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(connection: Connection, index: int, folder: Path) -> None:
    """Is killed in the middle of a report."""
    if index:
        work(connection, index, folder)
    else:
        os.write(connection.fileno(), b"\x00\x00\x01\x00half")
        die(connection, index, folder)


def fail(connection: Connection, index: int, folder: Path) -> None:
    if index:
        Line(connection, lambda: None).take_ticket()
        time.sleep(600)
    connection.send(("error", ("the disk is full", 1)))


def run(work: Work, folder: Path, tickets: int, on_event: Callable[[str, Any], None] = lambda *_: None) -> None:
    context = multiprocessing.get_context("fork")

    def start(index: int) -> tuple[BaseProcess, Connection]:
        ours, its = context.Pipe()
        with its:
            process = context.Process(target=_alone, args=(work, ours, its, index, folder))
            process.start()
        return process, ours

    Crew(start, Tickets(tickets, None), on_event).run(2, lambda: None)


def _alone(work: Work, ours: Connection, its: Connection, index: int, folder: Path) -> None:
    ours.close()
    work(its, index, folder)


@pytest.mark.parametrize("how", [work, work_or_die, die_while_writing])
def test_all_trials_are_run_whoever_dies(how: Work, tmp_path: Path) -> None:
    ended: list[str] = []
    # One that dies again and again is given up in the end, after the other has done the work.
    outcome: AbstractContextManager[object] = (
        pytest.raises(ChildProcessError) if how is die_while_writing else nullcontext()
    )
    with outcome:
        run(how, tmp_path, 20, lambda kind, _: ended.append(kind))
    assert ended == ["ended"] * 20
    assert (tmp_path / "died").exists() == (how is work_or_die)


def test_a_long_search_outlives_more_deaths(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []
    run(die_now_and_then, tmp_path, 100, lambda kind, _: ended.append(kind))
    assert ended == ["ended"] * 100
    assert caplog.text.count("another one takes its place") > REPLACEMENTS + 5


def test_workers_that_die_again_and_again(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"exit code -9.*died") as caught:
        run(die, tmp_path, 20)
    assert str(caught.value).count("exit code -9") in (REPLACEMENTS + 1, REPLACEMENTS + 2)


def test_a_worker_that_says_what_is_wrong_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailedError, match="the disk is full"):
        run(fail, tmp_path, 20)
    assert not multiprocessing.active_children()


def test_an_error_of_the_parent_ends_the_workers(tmp_path: Path) -> None:
    def broken(kind: str, event: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(work, tmp_path, 10**9, broken)
    assert not multiprocessing.active_children()


def test_no_ticket_after_the_deadline() -> None:
    assert Tickets(1, None).take()
    assert not Tickets(1, 0.0).take()
    assert not Tickets(0, None).take()
