"""Processes that take themselves for different machines: another host's identity, and no lock on a file in common."""

from __future__ import annotations

from pathlib import Path

from processes import Started, start_code

GRACE_SECONDS = 2.0

CODE = f"""
import sys
name, moment = sys.argv.pop(1), sys.argv.pop(1)
from nasopt.host import identity, locks
from nasopt.storage import leases
identity.host = lambda: name
common = locks.FileLock
locks.FileLock = lambda path: common(path.with_name(path.name + "-" + name))
leases.HEARTBEAT_SECONDS, leases.GRACE_SECONDS = 0.3, {GRACE_SECONDS}
from killing import MOMENTS
MOMENTS[moment]()
"""


def start_on(host: str, code: str, *arguments: object, moment: str = "never", cwd: Path | None = None) -> Started:
    """Starts `python -c CODE ARGUMENTS` as if on another machine; killed at a moment of :data:`killing.MOMENTS`."""
    return start_code(f"{CODE}\n{code}", host, moment, *arguments, cwd=cwd)
