"""Running trials on this machine: in this process, or in several worker processes on one database."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, TypeVar

from optuna.trial import FrozenTrial

from nasopt.execution.confirmation import confirm
from nasopt.execution.controls import evaluate_tfidf, missing_controls, run_controls
from nasopt.execution.crew import Crew, Tickets
from nasopt.execution.devices import start_on, visible_gpus
from nasopt.execution.outside import add, added, examine
from nasopt.execution.progress import ProgressView
from nasopt.execution.search import is_over, run_base, run_trials
from nasopt.execution.stopping import Tally
from nasopt.execution.worker import Ended, WorkerSetup, run_in_process, run_on_node, setup_of, summary
from nasopt.host.interruption import Interruption, interruptible
from nasopt.host.object_store import url_of
from nasopt.methods.registry import make_method
from nasopt.storage.rdb import explaining_failures, sqlite_path
from nasopt.study.deletion import explaining_deletion
from nasopt.study.opening import OpenStudy
from nasopt.study.recovery import settle_interrupted
from nasopt.trial.failures import explaining_machine
from nasopt.trial.objective import Objective

PROCESSES = multiprocessing.get_context("spawn")
"""Makes worker processes, which a fork of this one would break: torch's threads and CUDA do not survive it."""

logger = logging.getLogger("nasopt")

P = ParamSpec("P")
R = TypeVar("R")


class Run:
    """The trials of one call, shown and counted as they end.

    Args:
        view: shows them.
    """

    def __init__(self, view: ProgressView) -> None:
        self.view, self.tally = view, Tally()
        self._database_is_away = False

    def ended(self, trial: Ended) -> None:
        """Notes that a trial has ended, here or in a worker process."""
        self.tally.count(trial.state, trial.reason)
        self.view.finished(trial.number, trial.summary)

    def on_event(self, kind: str, event: Any) -> None:
        """Passes on what a worker reports."""
        if kind == "phase":
            self.view.phase(*event)
        elif kind == "database":
            self._database(*event)
        else:
            self.ended(event)

    def _database(self, is_away: bool, text: str) -> None:
        """Says once, whichever workers notice, that the database is away, and that it is back."""
        if is_away != self._database_is_away:
            self._database_is_away = is_away
            logger.warning("%s", text)


def optimize(
    opened: OpenStudy,
    view: ProgressView,
    *,
    n_trials: int,
    shared: bool = False,
    timeout: float | None = None,
    workers: int = 1,
    debug: bool = False,
    accept_device_change: bool = False,
    cluster: str | None = None,
) -> str | None:
    """Runs the base model if need be, then up to `n_trials` more trials, and confirms latencies that were looked up.

    Args:
        shared: whether these are what is left of the study's budget, which commands that run at once share.
        cluster: the address of a Ray cluster that runs the workers; None for this machine.

    Returns:
        Why the search is over, if it is; None if trials may go on.

    Raises:
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after the trials under way were recorded as interrupted.
        MachineError: a disk, the study's folder or the database failed.
        SearchFailedError: no trial was completed of those that were run, or the first ones failed for one reason.
        DeviceChangedError: the study began on another device, and that is not accepted.
        WorkerFailedError: one of these in a worker; the others were stopped.
        ChildProcessError: more workers died than are replaced; the others have finished.
    """
    tickets, run = Tickets(n_trials, timeout), Run(view)
    budget = make_method(opened.config).plan.budget if shared else None
    with _guarded(opened, view) as asked:
        report = _between_steps(asked, view.phase)
        objective = Objective(opened.config, opened.artifacts, report, accept_device_change=accept_device_change)
        objective.check_device(opened.study)
        run_base(opened, objective)
        if cluster is not None:
            _run_on_cluster(
                cluster, opened, run, tickets, asked, setup_of(opened, workers, debug, accept_device_change, budget)
            )
        elif workers == 1:
            take = _between_steps(asked, tickets.take)
            run_trials(opened, objective, take, lambda trial: run.ended(Ended.of(trial)), budget)
        else:
            _run_workers(opened, run, tickets, asked, workers, debug, accept_device_change, budget)
        confirm(opened, objective)
        run.tally.check()
        return is_over(opened, objective)


def evaluate_controls(
    opened: OpenStudy, view: ProgressView, *, random_masks: int, accept_device_change: bool = False
) -> None:
    """Runs the controls of the study's Pareto front that have not been run before, and TF-IDF.

    Raises:
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after the control under way was recorded as interrupted.
        MachineError: a disk, the study's folder or the database failed.
        DeviceChangedError: the study began on another device, and that is not accepted.
    """
    with _guarded(opened, view) as asked:
        report = _between_steps(asked, view.phase)
        objective = Objective(opened.config, opened.artifacts, report, accept_device_change=accept_device_change)
        missing = missing_controls(opened, objective, random_masks)
        view.expect(len(missing))
        evaluate_tfidf(opened, objective)
        run_controls(opened, objective, missing, lambda trial: view.finished(trial.number, summary(trial)))


def add_model(
    opened: OpenStudy,
    view: ProgressView,
    source: str,
    *,
    revision: str | None = None,
    train: bool = False,
    accept_device_change: bool = False,
) -> tuple[FrozenTrial, bool]:
    """Evaluates a model that was made elsewhere as a control of the study.

    Args:
        source: a folder, or an id on the hub.
        revision: branch, tag or commit on the hub.
        train: whether it is trained as the base model is.

    Returns:
        Its trial, and whether that is new: the same model is evaluated once.

    Raises:
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after the trial under way was recorded as interrupted.
        MachineError: a disk, the study's folder or the database failed.
        EvaluationFailedError: the model could not be trained, evaluated or measured.
        NasoptError: it cannot be compared with the study's candidates; see :func:`nasopt.execution.outside.examine`.
    """
    with _guarded(opened, view) as asked:
        report = _between_steps(asked, view.phase)
        objective = Objective(opened.config, opened.artifacts, report, accept_device_change=accept_device_change)
        objective.check_device(opened.study)
        recipe = examine(opened, objective, source, revision, train)
        settle_interrupted(opened.study, opened.folder)
        known = added(opened.study, recipe)
        if known is not None:
            return known, False
        return add(opened, objective, recipe, lambda trial: view.finished(trial.number, summary(trial))), True


@contextmanager
def _guarded(opened: OpenStudy, view: ProgressView) -> Iterator[Interruption]:
    """Takes note of Ctrl-C, SIGTERM and SIGHUP, shows what happens, and makes one line of a failure of the machine."""
    machine, database = explaining_machine(opened.folder), explaining_failures(opened.url)
    with (
        interruptible(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as asked,
        view,
        machine,
        database,
        explaining_deletion(opened.study),
    ):
        yield asked


def _between_steps(asked: Interruption, step: Callable[P, R]) -> Callable[P, R]:
    """The function, asked first whether the process is to end."""

    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        asked.check()
        return step(*args, **kwargs)

    return checked


def _run_workers(
    opened: OpenStudy,
    run: Run,
    tickets: Tickets,
    asked: Interruption,
    workers: int,
    debug: bool,
    accept_device_change: bool,
    budget: int | None,
) -> None:
    gpus = visible_gpus()

    def start(index: int) -> tuple[BaseProcess, Connection]:
        setup = setup_of(opened, workers, debug, accept_device_change, budget)
        ours, its = PROCESSES.Pipe()
        with its:  # a copy of it here would hide the worker's end
            process = PROCESSES.Process(target=run_in_process, args=(setup, its), name=f"nasopt-worker-{index}")
            start_on(process, index, gpus)
        return process, ours

    Crew(start, tickets, run.on_event).run(workers, asked.check)


def _run_on_cluster(
    address: str, opened: OpenStudy, run: Run, tickets: Tickets, asked: Interruption, setup: WorkerSetup
) -> None:
    from nasopt.execution.cluster import run_on_cluster

    work = partial(run_on_node, setup, url_of(opened.artifacts) or str(opened.artifacts))
    is_shared = sqlite_path(opened.url) is None
    run_on_cluster(address, setup.workers, tickets, work, run.on_event, asked.check, is_shared=is_shared)
