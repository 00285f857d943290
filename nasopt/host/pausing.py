"""Work that stands still while another process of this machine measures on the same device.

A process that computes holds a shared lock (`flock`) beside the measurement lock of each device that it disturbs.
Between its steps it looks whether a measurement lock is held, and if so gives its own up until that is over. Who
measures takes the measurement lock first (:mod:`nasopt.host.holding`), and then waits until nobody is at work any more.
Both waits have an end: a step that does not end, or a holder that was suspended, spoils one measurement or costs half a
minute, and stops nobody for good.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nasopt.host.interruption import check_interruption

PAUSE_SECONDS = 30.0
"""The longest pause; after it the work goes on for as long, whoever measures."""
QUIET_SECONDS = 5.0
"""Who measures waits at most so long for the steps of others to end."""
_LOOK_SECONDS = 0.02

logger = logging.getLogger("nasopt")


class _Work:
    """This process's work, which disturbs the measurements of one device."""

    def __init__(self, measurement_lock: Path) -> None:
        self._measurement_lock = measurement_lock
        self._file = _opened(_work_file(measurement_lock))
        self._paused_since: float | None = None
        self._pause_again = 0.0

    def goes_on(self) -> bool:
        """Is at work from now on; false if it should pause, because somebody measures."""
        fcntl.flock(self._file, fcntl.LOCK_SH)  # nobody holds the other kind for longer than it takes to try
        now = time.monotonic()
        if now >= self._pause_again and _is_held(self._measurement_lock):
            self._paused_since = self._paused_since or now
            if now - self._paused_since <= PAUSE_SECONDS:
                return False
            self._pause_again = now + PAUSE_SECONDS
        self._paused_since = None
        return True

    def rest(self) -> None:
        """Is not at work until it goes on."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def end(self) -> None:
        os.close(self._file)


_at_work: list[_Work] = []  # the locks are the process's, and so is this


@contextmanager
def at_work(measurement_locks: Collection[Path]) -> Iterator[None]:
    """Says that this process computes while the block runs, and that this disturbs whoever holds these locks.

    Args:
        measurement_locks: see :func:`nasopt.host.holding.held`.

    Raises:
        KeyboardInterrupt: the process was asked to end while it waited for a measurement.
    """
    works = [_Work(lock) for lock in measurement_locks]
    _at_work.extend(works)
    try:
        pause_for_measurements()
        yield
    finally:
        for work in works:
            _at_work.remove(work)
            work.end()


def pause_for_measurements() -> None:
    """Call it between steps: stands still while another process measures, and costs microseconds if none does.

    Raises:
        KeyboardInterrupt: the process was asked to end while it stood still.
    """
    while not all([work.goes_on() for work in _at_work]):
        stand_by()  # with all of its work, or who measures would wait for the rest of it
        time.sleep(_LOOK_SECONDS)


def stand_by() -> None:
    """Call it while waiting for another process's work: it disturbs no measurement.

    Raises:
        KeyboardInterrupt: the process was asked to end while it waited.
    """
    for work in _at_work:
        work.rest()
    check_interruption()


def wait_for_quiet(measurement_lock: Path) -> None:
    """Waits until those that are :func:`at_work` stand still; for who holds the lock, and is not at work itself.

    Raises:
        KeyboardInterrupt: the process was asked to end while it waited.
    """
    file = _opened(_work_file(measurement_lock))
    deadline = time.monotonic() + QUIET_SECONDS
    try:
        while not _takes(file, fcntl.LOCK_EX):
            check_interruption()
            if time.monotonic() > deadline:
                logger.debug("others compute while this process measures (%s)", measurement_lock)
                return
            time.sleep(_LOOK_SECONDS)
    finally:
        os.close(file)  # and the lock with it: those that were at work wait for the measurement lock


def _is_held(measurement_lock: Path) -> bool:
    try:
        file = os.open(measurement_lock, os.O_RDONLY)
    except FileNotFoundError:
        return False  # nobody has measured yet
    try:
        return not _takes(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def _takes(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> int:
    """The file, made if need be so that every user may open it."""
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with suppress(FileExistsError):  # another process was faster
            file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(file, 0o666)
            return file


def _work_file(measurement_lock: Path) -> Path:
    return measurement_lock.with_name(f"{measurement_lock.name}.work")
