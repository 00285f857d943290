"""Runs the command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from nasopt.cli import app as cli


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Result:
    """Runs `nasopt ARGUMENTS`; gives what it prints and returns."""
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


def succeed(*arguments: object) -> Result:
    """Runs a command that must succeed; gives the same."""
    result = run(*arguments)
    assert result.code == 0, result.err
    return result


def read(*arguments: object) -> Any:
    """The JSON of `nasopt ARGUMENTS -f json`, which must succeed, as objects of Python."""
    return json.loads(succeed(*arguments, "-f", "json").out)


def trials_of(name: str = "tiny") -> list[dict[str, Any]]:
    """The record that `nasopt study trials` gives of every trial of a study, by number."""
    found: list[dict[str, Any]] = read("study", "trials", name)
    return found


def assert_refused(result: Result, *parts: str) -> None:
    """One line on stderr that holds `parts`, nothing on stdout, exit code 2."""
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("nasopt: ")
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err
