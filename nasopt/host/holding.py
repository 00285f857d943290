"""A lock that one process of this machine holds at a time, whichever user started it, and that says who holds it.

The lock is the kernel's (`flock`), not the file's existence: it ends with the process that holds it, so a dead holder
is never in the way. One that is suspended by Ctrl-Z gives the lock up. One that `kill -STOP` suspended cannot, and
those that wait say so; it is not taken for dead, because it would go on in the middle of its work.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from nasopt.host.files import write_atomically
from nasopt.host.identity import is_gone, is_stopped, worker_identity
from nasopt.host.interruption import check_interruption

PATIENCE_SECONDS = 5.0
"""A wait that is longer says for whom."""
_LOOK_SECONDS = 0.2

logger = logging.getLogger("nasopt")

_study = ["?"]


def name_study(name: str) -> None:
    """Says which study this process works for, to those who wait for its locks."""
    _study[0] = name


@dataclass
class Hold:
    """A lock that is held; `suspended` says whether the process was suspended, and the lock another's, in between."""

    suspended: bool = False


@contextmanager
def held(path: Path) -> Iterator[Hold]:
    """Holds the lock on a file, waiting for it as long as it takes; after 5 s a warning says who holds it.

    Args:
        path: the file, in a folder that all users of the machine may write.

    Raises:
        KeyboardInterrupt: the process was asked to end while it waited.
    """
    lock = FileLock(path, mode=0o666)  # every user must be able to open the file that the first one made
    hold = Hold()
    _acquire(lock, path)
    try:
        with _given_up_on_suspension(lock, path, hold):
            yield hold
    finally:
        _note(path).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    began, told = time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
            break
        except Timeout:
            check_interruption()
        if not told and time.monotonic() - began >= PATIENCE_SECONDS:
            logger.warning("waiting for %s: %s", path, holder(path))
            told = True
    since = datetime.now().isoformat(" ", "seconds")
    with suppress(OSError):  # it only informs
        write_atomically(_note(path), json.dumps({**worker_identity(), "study": _study[0], "since": since}))


@contextmanager
def _given_up_on_suspension(lock: FileLock, path: Path, hold: Hold) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def suspend(number: int, _frame: FrameType | None) -> None:
        hold.suspended = True
        _note(path).unlink(missing_ok=True)
        lock.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSTOP)
        signal.signal(number, suspend)  # it goes on
        _acquire(lock, path)

    before = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


def holder(path: Path) -> str:
    """Who holds the lock on a file, in words: process, study, since when, and what to do if it is suspended."""
    for note in sorted(path.parent.glob(f"{path.name}.holder-*")):
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            if is_gone(found):
                continue
            words = f"process {int(found['pid'])} holds it for the study {str(found['study'])!r} since {found['since']}"
            if is_stopped(found):
                words += f"; it is suspended: continue it (kill -CONT {int(found['pid'])}) or end it"
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return "".join(letter for letter in words if letter.isprintable())
    return f"another process holds it (`fuser {path}` shows which)"


def _note(path: Path) -> Path:
    """The file that says who holds a lock; one for each user, because they cannot replace each other's."""
    return path.with_name(f"{path.name}.holder-{os.getuid()}")
