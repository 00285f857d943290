"""Shows a user how trials go: a live bar on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nasopt.host.terminal import printable

PREPARATION = -1
"""The number that stands for a trial's before there is one."""


class ProgressView(ABC):
    """A view that is told what happens, by trial number; see :data:`PREPARATION`."""

    @abstractmethod
    def phase(self, number: int, phase: str, done: int, total: int) -> None:
        """Trial `number` is at step `done` of `total` of a phase (0 of 0 where the length is not known)."""

    @abstractmethod
    def finished(self, number: int, summary: str) -> None:
        """Trial `number` has ended."""

    def expect(self, total: int) -> None:  # noqa: B027
        """`total` trials are going to run; called where that was not known at the start."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class QuietView(ProgressView):
    """Says nothing (`--quiet`)."""

    def phase(self, number: int, phase: str, done: int, total: int) -> None:
        return None

    def finished(self, number: int, summary: str) -> None:
        return None


class PlainView(ProgressView):
    """One line for each trial that ends and for each quarter of a phase of the preparation, with times."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._started = time.monotonic()
        self._ended = 0
        self._announced: set[tuple[str, int]] = set()

    def expect(self, total: int) -> None:
        self._total = total
        self._started = time.monotonic()

    def phase(self, number: int, phase: str, done: int, total: int) -> None:
        percent = 25 * (4 * done // total) if total else 0
        if number < 0 and (phase, percent) not in self._announced:
            self._announced.add((phase, percent))
            self._print(f"{phase} ... {f'{percent} %' if total else ''}".rstrip())

    def finished(self, number: int, summary: str) -> None:
        self._ended += 1
        elapsed = time.monotonic() - self._started
        left = max(0, self._total - self._ended) * elapsed / self._ended
        self._print(f"{summary}  [{self._ended}/{self._total}, {_clock(elapsed)} elapsed, {_clock(left)} left]")

    def _print(self, line: str) -> None:
        self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


class LiveView(ProgressView):
    """A bar over the trials, and below it one for each trial that runs."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._trials = self._progress.add_task("trials", total=total)
        self._running: dict[int, tuple[str, TaskID]] = {}

    def expect(self, total: int) -> None:
        self._progress.update(self._trials, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, number: int, phase: str, done: int, total: int) -> None:
        name = "preparing" if number < 0 else f"trial {number}"
        if number >= 0:
            self._remove(PREPARATION)
        known = self._running.get(number)
        if known is None or known[0] != phase:
            if known is not None:
                self._progress.remove_task(known[1])
            self._running[number] = (phase, self._progress.add_task(f"  {name}: {phase}", total=total or None))
        self._progress.update(self._running[number][1], completed=done, total=total or None)

    def finished(self, number: int, summary: str) -> None:
        self._remove(number)
        self._progress.console.print(printable(summary), highlight=False, markup=False)
        self._progress.advance(self._trials)

    def _remove(self, number: int) -> None:
        known = self._running.pop(number, None)
        if known is not None:
            self._progress.remove_task(known[1])


def make_view(console: Console, total: int, quiet: bool) -> ProgressView:
    """The view that fits where stderr goes."""
    if quiet:
        return QuietView()
    return LiveView(console, total) if console.is_terminal else PlainView(console, total)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
