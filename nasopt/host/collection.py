"""Python's garbage collector: how often it looks for cycles, and when it must not."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 50_000


def collect_rarely() -> None:
    """Lets the collector look for cycles once per 50,000 new objects, not per 700.

    Importing torch and transformers makes a million objects that all stay: looking them through again and again is a
    quarter of the time that a command takes to start.
    """
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the collector from running, and restores what was set before.

    Nothing is collected first: that takes a third of a second with torch in the process, and tells a measurement
    nothing, since what garbage holds stays held throughout.
    """
    collected_before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected_before:
            gc.enable()
