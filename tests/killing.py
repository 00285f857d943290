"""Runs the command line in a process of its own that is killed (-9) at a chosen moment.

The product runs as it is; only what it calls at that moment is replaced by something that sends SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from processes import CONTEXT, measure_shortly, run_worker


def run_killed(moment: str, *arguments: object) -> None:
    """`nasopt ARGUMENTS`, killed at one of :data:`MOMENTS`."""
    process = start(moment, *arguments)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"not killed at {moment!r}: exit code {process.exitcode}"


def start(moment: str, *arguments: object) -> Any:
    process = CONTEXT.Process(target=_main, args=(moment, [str(argument) for argument in arguments]))
    process.start()
    return process


def worker_killed(moment: str, flag: Path, deaths: int, setup: Any, connection: Any) -> None:
    """A worker process of `optimize`, killed at one of :data:`MOMENTS` if it comes there among the first ones.

    Args:
        flag: a file that counts the workers that were killed.
        deaths: the number of workers that are killed.
    """
    global _before_death
    _before_death = partial(_count, flag, deaths)
    if not flag.exists() or flag.stat().st_size < deaths:
        MOMENTS[moment]()
    run_worker(setup, connection)


def _count(flag: Path, deaths: int) -> bool:
    """Whether this process is to be killed; two of them may come to the moment at once."""
    with FileLock(f"{flag}.lock"), flag.open("ab") as file:
        if file.tell() >= deaths:
            return False
        file.write(b"x")
        return True


def _always() -> bool:
    return True


_before_death = _always


def _main(moment: str, arguments: list[str]) -> None:
    from nasopt.cli import app as cli

    measure_shortly()
    MOMENTS[moment]()
    sys.argv = ["nasopt", *arguments, "--quiet"]
    cli.main()


def _die() -> None:
    if _before_death():
        os.kill(os.getpid(), signal.SIGKILL)


def _in_phase(phase: str, at_step: int) -> Callable[[], None]:
    def patch() -> None:
        from nasopt.execution.crew import Line
        from nasopt.execution.progress import QuietView

        send = Line.send

        def watch_worker(self: Line, kind: str, event: Any = None) -> None:
            if kind == "phase" and event[1] == phase and event[2] >= at_step:
                _die()
            send(self, kind, event)

        def watch(self: QuietView, number: int, current: str, done: int, total: int) -> None:
            if current == phase and done >= at_step:
                _die()

        QuietView.phase = watch  # type: ignore[method-assign]
        Line.send = watch_worker  # type: ignore[method-assign]

    return patch


def _half_written() -> None:
    import safetensors.torch

    save_file = safetensors.torch.save_file

    def save_half(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        content = path.read_bytes()
        os.truncate(path, len(content) // 2)
        _die()
        path.write_bytes(content)

    safetensors.torch.save_file = save_half


def _announced() -> None:
    from nasopt.storage.checkpoints import CheckpointStore

    write = CheckpointStore.write

    def write_and_die(self: CheckpointStore, weights: Any, architecture: Any, announce: Callable[[str], None]) -> str:
        def announce_and_die(key: str) -> None:
            announce(key)
            _die()

        return write(self, weights, architecture, announce_and_die)

    CheckpointStore.write = write_and_die  # type: ignore[method-assign]


def _telling(after: bool) -> Callable[[], None]:
    def patch() -> None:
        from optuna.trial import TrialState

        from nasopt.storage.rdb import Storage

        tell = Storage.set_trial_state_values

        def tell_and_die(self: Storage, trial_id: int, state: TrialState, values: Any = None) -> bool:
            if state == TrialState.COMPLETE and not after:
                _die()
            told = tell(self, trial_id, state, values)
            if state == TrialState.COMPLETE:
                _die()
            return told

        Storage.set_trial_state_values = tell_and_die  # type: ignore[method-assign]

    return patch


def _poison() -> None:
    """Kills the process that trains what somebody has asked for, and what tries that again."""
    from nasopt.trial.objective import Objective

    run = Objective._run

    def run_or_die(self: Objective, trial: Any, context: Any) -> Any:
        if "fixed_params" in trial.study.get_trials(deepcopy=False)[trial.number].system_attrs:
            _die()
        return run(self, trial, context)

    Objective._run = run_or_die  # type: ignore[method-assign]


MOMENTS: dict[str, Callable[[], None]] = {
    "never": lambda: None,
    "base model": _in_phase("base model", 3),
    "sensitivity": _in_phase("sensitivity", 2),
    "supernet": _in_phase("supernet", 25),
    "training": _in_phase("training", 2),
    "measuring": _in_phase("measuring", 0),
    "poison": _poison,
    "writing": _half_written,
    "announced": _announced,
    "telling": _telling(after=False),
    "told": _telling(after=True),
}
