"""Ctrl-C, SIGTERM and SIGHUP, taken note of at once and acted on where it does no harm.

A signal handler that raises does so between any two instructions, in Optuna's and SQLAlchemy's code as well as in ours:
a trial may then stay RUNNING, a heartbeat thread may never end. So the first signal is only noted, and the work asks
between its steps, and where it waits.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Interruption:
    """Whether this process has been asked to end."""

    def __init__(self) -> None:
        self.by: str | None = None

    def check(self) -> None:
        """Call it between steps.

        Raises:
            KeyboardInterrupt: the process has been asked to end; the message says by what.
        """
        if self.by is not None:
            raise KeyboardInterrupt(self.by)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler. A user who asks twice will not wait for the end of a step."""
        self.check()
        self.by = NAMES[signal.Signals(number)]


_in_force: list[Interruption] = []  # signal handlers are the process's, and so is this


def check_interruption() -> None:
    """For work that waits for others: ends the wait if the process has been asked to end.

    Raises:
        KeyboardInterrupt: see :meth:`Interruption.check`.
    """
    for interruption in _in_force:
        interruption.check()


@contextmanager
def interruptible(*signals: signal.Signals) -> Iterator[Interruption]:
    """Takes note of `signals` while the block runs; a SIGHUP that is ignored (`nohup`) stays so."""
    interruption = Interruption()
    noted = [number for number in signals if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interruption.note) for number in noted}
    _in_force.append(interruption)
    try:
        yield interruption
    finally:
        _in_force.remove(interruption)
        for number, handler in before.items():
            signal.signal(number, handler)
