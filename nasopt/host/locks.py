"""Locks on the work of a study that only one process may do: preparation, collection, what is made once.

Between the processes of a machine a lock is a file, which the kernel frees when its holder ends. Between machines it
is a lease as well, where the study has said how one is got (:func:`lease_with`): a lock on a file of a shared disk does
not hold everywhere, and machines with an object store share no disk at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from nasopt.host.pausing import stand_by

_LOOK_SECONDS = 0.5


class Lease(Protocol):
    """The right to do something, which only one process on all machines has at a time."""

    @property
    def is_lost(self) -> bool:
        """Whether this process was taken for dead while it had the lease, so that another has it now."""
        ...

    def acquire(self) -> None:
        """Waits for it.

        Raises:
            KeyboardInterrupt: the process was asked to end meanwhile.
        """
        ...

    def release(self) -> None:
        """Gives it back; nothing happens if it is not held."""
        ...


Leases: TypeAlias = Callable[[str], Lease]
"""The lease of a name."""

_leases: WeakValueDictionary[Path, Leases] = WeakValueDictionary()


def lease_with(folder: Path, leases: Leases | None) -> None:
    """Says how the locks below a folder are held across machines; None: not at all.

    Args:
        folder: a study's artifact folder.
        leases: gives the lease of a lock; its name is the lock's path inside the folder. The caller keeps it alive for
            as long as it is to hold: it has a connection to a database, which closes with the study's.
    """
    if leases is None:
        _leases.pop(folder, None)
    else:
        _leases[folder] = leases


class Lock:
    """A lock on a file, and a lease where there is one.

    Args:
        path: the file, in a folder that exists.
    """

    def __init__(self, path: Path) -> None:
        self._file = FileLock(path)
        self._lease: Lease | None = None
        for folder in path.parents:
            if folder in _leases:
                self._lease = _leases[folder](path.relative_to(folder).as_posix())
                break

    @property
    def is_lost(self) -> bool:
        """Whether another machine has taken this process for dead, and does its work now."""
        return self._lease is not None and self._lease.is_lost

    def acquire(self) -> None:
        """Waits for the lock.

        Raises:
            KeyboardInterrupt: the process was asked to end meanwhile.
        """
        while True:
            try:
                self._file.acquire(timeout=_LOOK_SECONDS)
                break
            except Timeout:
                stand_by()
        try:
            if self._lease is not None:
                self._lease.acquire()
        except BaseException:
            self._file.release()
            raise

    def release(self) -> None:
        """Gives the lock back; nothing happens if it is not held."""
        if self._lease is not None:
            self._lease.release()
        self._file.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
