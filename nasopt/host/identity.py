"""The identity of this process, and a check whether another process is still alive.

Both say "gone" only of what is sure: a process that is merely not to be seen may live, and its heartbeat decides.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

START_TOLERANCE_SECONDS = 1
"""Two readings of a process's start differ by less than this; a number is used again much later."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def worker_identity() -> dict[str, str | int | float]:
    """This process, so that another one on this host can tell whether it is still alive."""
    return dict(_identity(os.getpid()))


@cache
def _identity(pid: int) -> dict[str, str | int | float]:
    # Cached by pid, because a forked child inherits the cache.
    started, _ = _start_and_state(pid)
    return {"host": host(), "pid": pid, "started": started}


@cache
def host() -> str:
    """The machine within which process ids are unique: its name, this boot of it, and on Linux the container.

    Machines may share a name (cloned images, containers), and the first namespace of process ids has the same number on
    all of them; only a boot has a number of its own. After a restart a machine is another one.
    """
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = f"{uuid.getnode():012x}"
    try:
        namespace = f"-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        namespace = ""
    name = re.sub(r"[^\w.-]", "_", socket.gethostname())  # it becomes a part of file names
    return f"{name}-{boot}{namespace}"


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether a process, given by its identity, ran on this host and has surely ended."""
    if worker["host"] != host():
        return False
    try:
        os.kill(worker["pid"], 0)  # it sees the processes of other users, too, which /proc may hide (`hidepid`)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        started, state = _start_and_state(worker["pid"])
    except (OSError, psutil.Error):
        return False
    return state == psutil.STATUS_ZOMBIE or abs(started - float(worker["started"])) > START_TOLERANCE_SECONDS


def is_stopped(worker: Mapping[str, Any]) -> bool:
    """Whether a process of this host is suspended (Ctrl-Z, `kill -STOP`), as far as can be seen."""
    try:
        return worker["host"] == host() and _start_and_state(worker["pid"])[1] == psutil.STATUS_STOPPED
    except (OSError, psutil.Error):
        return False


def _start_and_state(pid: int) -> tuple[float, str]:
    """When a process began, by a clock that nobody sets, and its state as psutil calls it.

    psutil counts from the moment of the boot by the wall clock, which moves whenever that clock is set; the kernel
    counts from the boot itself.

    Raises:
        OSError, psutil.Error: the process is not to be seen.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not stat.parents[1].joinpath("self").exists():
        process = psutil.Process(pid)
        return process.create_time(), process.status()
    fields = stat.read_text().rpartition(")")[2].split()  # what stands before is the name, which may hold anything
    states = {"Z": psutil.STATUS_ZOMBIE, "T": psutil.STATUS_STOPPED}
    return int(fields[19]) / os.sysconf("SC_CLK_TCK"), states.get(fields[0], psutil.STATUS_RUNNING)
