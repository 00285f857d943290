"""Runs the command line in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

import pytest

from nasopt.cli import app as cli


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Result:
    """What `nasopt ARGUMENTS` prints and returns."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, list(sys.path)
    sys.argv = ["nasopt", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exited:
            cli.main()
    finally:
        sys.argv, sys.path[:] = before
    code = exited.value.code
    return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())
