"""The first signal is noted, the second one is obeyed at once."""

import os
import signal

import pytest

from nasopt.host.interruption import check_interruption, interruptible


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_is_obeyed_between_steps(number: signal.Signals, name: str) -> None:
    before = signal.getsignal(number)
    done = []
    with interruptible(signal.SIGINT, signal.SIGTERM) as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        done.append("the rest of the step")
        with pytest.raises(KeyboardInterrupt, match=name):
            interruption.check()
    assert done
    assert signal.getsignal(number) == before


def test_who_asks_twice_does_not_wait() -> None:
    with interruptible(signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(signal.SIGTERM, signal.SIGHUP) as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            interruption.check()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with interruptible(signal.SIGHUP) as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt, match="SIGHUP"):
                check_interruption()
    finally:
        signal.signal(signal.SIGHUP, before)
