"""Worker processes of one command: each has a pipe of its own to the parent, which gives out leave to begin trials.

Nothing is shared between workers, so that one that is killed at any moment holds nothing that the others wait for. The
parent knows who has leave: what a dead worker had is given to the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from nasopt.errors import WorkerFailedError

JOIN_SECONDS = 60
"""Seconds that workers may take to finish cleanly after an interruption."""
REPLACEMENTS = 3
"""The most workers of one command that are replaced when they die; where more die, the machine is at fault."""
TRIALS_PER_REPLACEMENT = 5
"""For so many trials that have ended one more is replaced: a long search outlives more deaths."""
_LOOK_SECONDS = 0.1

logger = logging.getLogger("nasopt")


class Tickets:
    """Leave to begin a trial: for `count` in all, and for none after the deadline.

    Args:
        count: trials that may begin.
        timeout: seconds from now after which none begins.
    """

    def __init__(self, count: int, timeout: float | None) -> None:
        self._left = count
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def take(self) -> bool:
        if self._left <= 0 or (self._deadline is not None and time.monotonic() >= self._deadline):
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """The trial was interrupted, and is tried again."""
        self._left += 1


class Line:
    """A worker's end of its pipe.

    Args:
        connection: the pipe.
        check: raises KeyboardInterrupt where the worker has been asked to end.
    """

    def __init__(self, connection: Connection, check: Callable[[], None]) -> None:
        self._connection, self._check = connection, check

    def send(self, kind: str, event: Any = None) -> None:
        """Tells the parent.

        Raises:
            KeyboardInterrupt: there is nobody to be told, or the worker has been asked to end.
        """
        self._check()
        try:
            self._connection.send((kind, event))
        except OSError:
            raise KeyboardInterrupt("the end of its parent") from None

    def take_ticket(self) -> bool:
        """Asks the parent for leave to begin a trial.

        Raises:
            KeyboardInterrupt: see :meth:`send`.
        """
        self.send("ticket")
        try:
            while not self._connection.poll(_LOOK_SECONDS):
                self._check()
            return bool(self._connection.recv())
        except (EOFError, OSError):
            raise KeyboardInterrupt("the end of its parent") from None


@dataclass
class _Member:
    index: int
    process: BaseProcess
    connection: Connection
    has_ticket: bool = False


class Crew:
    """The workers.

    Args:
        start: starts worker `index`; gives the process and the parent's end of its pipe.
        tickets: what the workers ask for.
        on_event: is told what they report.
    """

    def __init__(
        self,
        start: Callable[[int], tuple[BaseProcess, Connection]],
        tickets: Tickets,
        on_event: Callable[[str, Any], None],
    ) -> None:
        self._start, self._tickets, self._on_event = start, tickets, on_event
        self._members: list[_Member] = []
        self._died: list[str] = []
        self._trials = 0
        self._is_short = False  # whether one that died was not replaced

    def run(self, count: int, check: Callable[[], None]) -> None:
        """Runs `count` workers until all have ended; whatever goes wrong here, none is left behind.

        Args:
            check: raises KeyboardInterrupt where this process has been asked to end.

        Raises:
            WorkerFailedError: a worker said what is wrong; the others were stopped.
            ChildProcessError: more workers died than are replaced; the others have finished.
        """
        try:
            for index in range(count):
                self._members.append(_Member(index, *self._start(index)))
            while self._members:
                check()
                ready = wait([member.connection for member in self._members], _LOOK_SECONDS)
                for member in [member for member in self._members if member.connection in ready]:
                    self._hear(member)
        except BaseException:
            self._stop()
            raise
        if self._is_short:
            raise ChildProcessError(
                f"{', '.join(self._died)} died; what was interrupted is tried again by the next optimize"
            )

    def _hear(self, member: _Member) -> None:
        try:
            kind, event = member.connection.recv()
            if kind == "ticket":
                member.has_ticket = self._tickets.take()
                member.connection.send(member.has_ticket)
                return
        except (EOFError, OSError):
            self._ended(member)
            return
        if kind == "error":
            raise WorkerFailedError(*event)
        if kind == "ended":
            member.has_ticket = False
            self._trials += 1
        self._on_event(kind, event)

    def _ended(self, member: _Member) -> None:
        self._members.remove(member)
        member.connection.close()
        member.process.join(JOIN_SECONDS)
        if member.process.exitcode == 0:
            return
        name = f"{member.process.name} (exit code {member.process.exitcode})"
        self._died.append(name)
        if member.has_ticket:
            self._tickets.give_back()
        if len(self._died) > REPLACEMENTS + self._trials // TRIALS_PER_REPLACEMENT:
            self._is_short = True
            return
        logger.warning("%s died; another one takes its place, and tries again what was interrupted", name)
        self._members.append(_Member(member.index, *self._start(member.index)))

    def _stop(self) -> None:
        """Asks the workers to end, so that their trials are recorded as interrupted, and waits."""
        for member in self._members:
            member.process.terminate()
        for member in self._members:
            member.connection.close()  # one that waits for a full pipe would not see the signal
        for member in self._members:
            member.process.join(JOIN_SECONDS)
            if member.process.is_alive():
                member.process.kill()
