"""Progress: plain lines where there is no terminal, a live bar where there is one."""

from __future__ import annotations

import io

from rich.console import Console

from nasopt.execution.progress import LiveView, PlainView, QuietView, make_view


def test_plain_lines_tell_phases_and_trials() -> None:
    out = io.StringIO()
    with PlainView(Console(file=out, width=200), total=2) as view:
        view.phase(-1, "tokenising", 0, 0)
        for done in range(1, 9):
            view.phase(-1, "base model", done, 8)
        view.phase(0, "training", 1, 8)
        view.finished(0, "trial 0: quality 0.9")
    lines = out.getvalue().splitlines()
    assert lines[0] == "tokenising ..."
    assert lines[1:6] == [f"base model ... {percent} %" for percent in (0, 25, 50, 75, 100)]
    assert lines[6].startswith("trial 0: quality 0.9  [1/2, 0:0")
    assert len(lines) == 7


def test_a_terminal_gets_a_bar_with_trial_phase_and_times() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with make_view(console, total=4, quiet=False) as view:
        assert isinstance(view, LiveView)
        view.phase(-1, "base model", 3, 10)
        view.phase(1, "training", 3, 10)
        assert len(view._progress.tasks) == 2  # the preparation is over
        view._progress.refresh()
        view.phase(1, "measuring", 0, 0)
        view.finished(1, "trial 1: quality 0.9")
    shown = out.getvalue()
    for part in ("trial 1: training", "3/10", "trials", "trial 1: quality 0.9", "1/4", "0:00:0"):
        assert part in shown


def test_elsewhere_there_is_no_bar() -> None:
    assert isinstance(make_view(Console(file=io.StringIO()), 1, quiet=False), PlainView)
    assert isinstance(make_view(Console(file=io.StringIO()), 1, quiet=True), QuietView)
