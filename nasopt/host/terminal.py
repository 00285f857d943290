"""Makes text from files and databases safe to print, and opens standard streams that are closed."""

from __future__ import annotations

import os
import sys
from unicodedata import category

LINES = "\n\t"


def printable(text: str, keep: str = "") -> str:
    """The text with each character that does not print as Python writes it, so that it cannot steer a terminal.

    Args:
        text: a text from anywhere.
        keep: characters that stay as they are, such as :data:`LINES`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or category(c) == "Zs" else repr(c)[1:-1] for c in text)


def open_missing_streams() -> None:
    """Opens the null device for stdin, stdout and stderr that the caller has closed (`>&-`).

    Python sets them to None, and the next file that is opened, a database perhaps, would get their number: text that a
    library writes to stderr would go into it.
    """
    for descriptor, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
