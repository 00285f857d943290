"""Processes that may read a folder and not write it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PLACES = [Path(__file__).parents[1], Path(__file__).parent]
OVERRIDES = "-dac_override,-dac_read_search"
"""Root's rights to read and write whatever a file's permissions say, taken away."""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Takes everyone's permission to write a folder and what is in it; root, as always, may all the same."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def run_python(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user whom permissions bind, which is root without its overriding rights where root runs this.

    Skips the test where root cannot give them up.
    """
    command = [sys.executable, *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("permissions do not bind root, and setpriv (util-linux) is not there to change that")
        command = ["setpriv", f"--bounding-set={OVERRIDES}", f"--inh-caps={OVERRIDES}", *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PLACES)), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NASOPT_STORAGE", None)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
