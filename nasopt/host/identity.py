"""The identity of this process, and a check whether another process is still alive."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from functools import cache
from typing import Any

import psutil

CLOCK_TOLERANCE_SECONDS = 5
"""Two readings of a process's start may differ by this much, because the wall clock may be set in between."""


def worker_identity() -> dict[str, str | int | float]:
    """This process, so that another one on this host can tell whether it is still alive."""
    return dict(_identity(os.getpid()))


@cache
def _identity(pid: int) -> dict[str, str | int | float]:
    # Cached by pid, because a forked child inherits the cache.
    return {"host": host(), "pid": pid, "started": psutil.Process(pid).create_time()}


@cache
def host() -> str:
    """The machine within which process ids are unique: the host, and on Linux the container.

    Containers may share the host's name.
    """
    try:
        namespace = f"-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        namespace = ""
    return re.sub(r"[^\w.-]", "_", socket.gethostname()) + namespace  # it becomes a part of file names


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether a process, given by its identity, ran on this host and has ended."""
    if worker["host"] != host():
        return False
    try:
        process = psutil.Process(worker["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        started = process.create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started - float(worker["started"])) > CLOCK_TOLERANCE_SECONDS
