"""Characters that reach a terminal, and streams that are closed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nasopt.host.terminal import LINES, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 日本, 😀", "plain, é, 日本, 😀"),
        ("no\N{NO-BREAK SPACE}break", "no\N{NO-BREAK SPACE}break"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("it's\r\nnew", r"it's\r\nnew"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_does_not_print_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_may_stay() -> None:
    assert printable("a\n\tb\r", keep=LINES) == "a\n\tb\\r"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_opened_on_nothing(closed: str) -> None:
    code = (
        "import sys; from nasopt.host.terminal import open_missing_streams; open_missing_streams();"
        "print('x'); print('y', file=sys.stderr); sys.stdin.isatty(); sys.stdout.flush();"
        "raise SystemExit(0 if open(sys.executable, 'rb').fileno() > 2 else 'a file got the number of a stream')"
    )
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    assert subprocess.run(shell, check=False, capture_output=True).returncode == 0
