"""Processes of their own that start at once: forked from one that has imported everything, which takes seconds.

Where it matters how Python itself starts (its path, its streams, the installed command), `subprocess` runs it instead.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "alembic.config",
        "bitsandbytes",
        "nasopt.cli",
        "nasopt.execution.local",
        "nasopt.measurement.lengths",
        "nasopt.measurement.measured.flops",
        "nasopt.measurement.measured.latency",
        "nasopt.measurement.measured.memory",
        "nasopt.methods.adabert.method",
        "nasopt.methods.alphanas.method",
        "nasopt.methods.bayesian.method",
        "nasopt.methods.fisher.method",
        "nasopt.methods.genetic.method",
        "nasopt.methods.taylor.method",
        "nasopt.models.building",
        "nasopt.models.quantization",
        "nasopt.models.surgery",
        "nasopt.numerics.comparison",
        "nasopt.report.dashboard",
        "nasopt.study.creation",
        "nasopt.tasks.classification",
        "nasopt.training.budget",
        "nasopt.training.sensitivity",
        "nasopt.training.unit_selection",
        "nasopt.trial.preparation",
        "nasopt.trial.screening",
        "optuna.storages._rdb.storage",
        "optuna_dashboard",
        "scipy.io",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite",
        "transformers.models.bert.modeling_bert",
        "killing",
        "processes",
    ]
)
NASOPT = "from nasopt.cli.app import main\nmain()"
"""The command line, as code for :func:`run_code`."""
MEASURING_SECONDS = 0.1
WARM_UP_WINDOW_SECONDS = 0.02
CAPABILITIES_VERSION = 0x20080522
OVERRIDES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root's rights to read and write whatever a file's permissions say."""


def measure_shortly() -> None:
    """A study measures for a part of the usual time in this process: models of tests are tiny, latencies nobody's."""
    from nasopt.measurement import block_times
    from nasopt.measurement.measured import latency

    block_times.SECONDS = MEASURING_SECONDS
    latency.measure_latency.__kwdefaults__["time_budget_s"] = MEASURING_SECONDS
    latency.WARM_UP_WINDOW_S = WARM_UP_WINDOW_SECONDS


def run_worker(setup: Any, connection: Connection) -> None:
    """Takes the place of :func:`nasopt.execution.worker.run_in_process`, in a worker that measures shortly."""
    from nasopt.execution.worker import run_in_process

    measure_shortly()
    run_in_process(setup, connection)


@dataclass(frozen=True)
class Started:
    """A process that runs, and the folder of the files that its streams go to."""

    process: BaseProcess
    folder: Path

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return (self.folder / "err").read_text()

    def wait(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """The result of the process, which must end in that time."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, f"still running after {seconds} s: {self.err}"
        return subprocess.CompletedProcess([], code, (self.folder / "out").read_text(), self.err)


def start_code(code: str, *arguments: object, cwd: Path | None = None, without_overrides: bool = False) -> Started:
    """Starts `python -c CODE ARGUMENTS` with this process's environment, in a folder that need not be the current one.

    Args:
        without_overrides: whether permissions bind it even if root runs the tests (Linux only).
    """
    folder = Path(tempfile.mkdtemp(prefix="streams-"))
    for name in ("out", "err"):
        (folder / name).touch()
    setting = (folder, cwd or Path.cwd(), dict(os.environ), without_overrides)
    process = CONTEXT.Process(target=_main, args=(*setting, code, [str(argument) for argument in arguments]))
    process.start()
    return Started(process, folder)


def run_code(code: str, *arguments: object, **setting: Any) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; the arguments are those of :func:`start_code`."""
    return start_code(code, *arguments, **setting).wait()


def tell_environment(connection: Connection, name: str) -> None:
    """Sends what a process finds in its environment under that name."""
    connection.send(os.environ.get(name))


def _main(
    folder: Path, cwd: Path, environment: dict[str, str], without_overrides: bool, code: str, arguments: list[str]
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    measure_shortly()
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), descriptor)
    if without_overrides and os.geteuid() == 0:
        _give_up_overrides()
    sys.argv = ["nasopt", *arguments]
    result: Any = 0
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        result = end.code
    gc.collect()  # as at the end of any process, what nobody holds is closed; this one ends without it
    sys.exit(result)


def _give_up_overrides() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of the low and of the high capabilities
    call(libc.capget, header, sets)
    for index in range(3):
        sets[index] &= ~OVERRIDES
    call(libc.capset, header, sets)


def call(function: Callable[..., int], *arguments: object) -> None:
    """Calls a function of the C library that returns 0 unless it fails."""
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
