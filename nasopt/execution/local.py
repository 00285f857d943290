"""Running trials on this machine: in this process, or in several worker processes on one database."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Self, TypeVar

from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import NasoptError, UntrustedStudyError
from nasopt.execution.confirmation import confirm
from nasopt.execution.controls import evaluate_tfidf, missing_controls, run_controls
from nasopt.execution.crew import JOIN_SECONDS, Crew, Line, Tickets
from nasopt.execution.progress import ProgressView
from nasopt.execution.search import is_over, run_base, run_trials
from nasopt.execution.stopping import Tally
from nasopt.host.interruption import Interruption, interruptible
from nasopt.host.logs import configure, quiet_optuna
from nasopt.host.object_store import artifacts_root, url_of
from nasopt.methods.registry import make_method
from nasopt.records import queries
from nasopt.records.latency import predicted_words
from nasopt.records.trial import TrialRecord
from nasopt.storage.rdb import explaining_failures, parse_url, sqlite_path
from nasopt.study.deletion import explaining_deletion
from nasopt.study.opening import OpenStudy, open_study, with_data
from nasopt.study.recovery import interrupt
from nasopt.study.trust import code_of
from nasopt.trial.failures import explaining_machine
from nasopt.trial.objective import Objective

if TYPE_CHECKING:
    from nasopt.execution.cluster import DeskLine

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerSetup:
    """The setup of a worker process; `code` is the code that the study named when it was found to be trusted."""

    url: str
    name: str
    artifacts: Path
    dataset: str
    index: int
    workers: int
    debug: bool
    accept_device_change: bool
    budget: int | None
    code: Mapping[str, str]


class Ended(NamedTuple):
    """A trial that has ended, as a worker process reports it."""

    number: int
    summary: str
    state: TrialState
    reason: str | None

    @classmethod
    def of(cls, trial: FrozenTrial) -> Self:
        """The report of a trial that has ended."""
        return cls(trial.number, summary(trial), trial.state, queries.failure_of(trial))


class Run:
    """The trials of one call, shown and counted as they end.

    Args:
        view: shows them.
    """

    def __init__(self, view: ProgressView) -> None:
        self.view, self.tally = view, Tally()

    def ended(self, trial: Ended) -> None:
        """Notes that a trial has ended, here or in a worker process."""
        self.tally.count(trial.state, trial.reason)
        self.view.finished(trial.number, trial.summary)

    def on_event(self, kind: str, event: Any) -> None:
        """Passes on what a worker reports."""
        if kind == "phase":
            self.view.phase(*event)
        else:
            self.ended(event)


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
                cluster, opened, run, tickets, asked, _setup_of(opened, 0, workers, debug, accept_device_change, budget)
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


def summary(trial: FrozenTrial) -> str:
    """One line about a trial that has ended."""
    if trial.state != TrialState.COMPLETE:
        screening = queries.screening_of(trial)
        reason = queries.failure_of(trial) or screening or "every genotype has been tried"
        return f"trial {trial.number} {'screened' if screening else trial.state.name.lower()}: {reason}"
    quality, *latencies, memory = trial.values
    shown = " / ".join(f"{latency:.2f}" for latency in latencies)
    record = TrialRecord.of(trial)
    predicted = predicted_words(record.latencies or {})
    shown += f" ms ({predicted})" if predicted else " ms"
    kind = [record.architecture or "", queries.precision_of(trial)]
    if record.control is not None:
        kind.insert(0, f"control {record.control.label}")
    if "training" in trial.params:
        kind.append(f"{trial.params['training']} from {record.parent}")
    if record.repeats is not None:
        kind.append(f"the same as trial {record.repeats}: not trained again")
    if record.provisional:
        kind.append("provisional")
    return f"trial {trial.number}: quality {quality:.4f}, {shown}, {memory:.1f} MB  ({', '.join(kind)})"


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
    def start(index: int) -> tuple[BaseProcess, Connection]:
        setup = _setup_of(opened, index, workers, debug, accept_device_change, budget)
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        with its:  # a copy of it here would hide the worker's end
            process = context.Process(target=_worker, args=(setup, its), name=f"nasopt-worker-{index}")
            process.start()
        return process, ours

    Crew(start, tickets, run.on_event).run(workers, asked.check)


def _setup_of(
    opened: OpenStudy, index: int, workers: int, debug: bool, accept_device_change: bool, budget: int | None
) -> WorkerSetup:
    return WorkerSetup(
        opened.url.render_as_string(hide_password=False),
        opened.name,
        opened.artifacts,
        opened.config.task.dataset.path,
        index,
        workers,
        debug,
        accept_device_change,
        budget,
        code_of(opened.config),
    )


def _run_on_cluster(
    address: str, opened: OpenStudy, run: Run, tickets: Tickets, asked: Interruption, setup: WorkerSetup
) -> None:
    from nasopt.execution.cluster import run_on_cluster

    work = partial(_on_node, setup, url_of(opened.artifacts) or str(opened.artifacts))
    is_shared = sqlite_path(opened.url) is None
    run_on_cluster(address, setup.workers, tickets, work, run.on_event, asked.check, is_shared=is_shared)


def _on_node(
    setup: WorkerSetup, artifacts: str, line: DeskLine, share: int, before: Mapping[str, Any] | None
) -> tuple[str, int] | None:
    """A worker on a node of a cluster, whose predecessor's trial, if it had one, is interrupted."""
    configure(setup.debug, quiet=False)
    quiet_optuna(setup.debug)
    _limit_threads(share)
    try:
        with explaining_failures(parse_url(setup.url)):
            _work(replace(setup, artifacts=artifacts_root(artifacts)), line, before)
    except KeyboardInterrupt:
        pass
    except NasoptError as error:
        return str(error), error.exit_code
    return None


def _worker(setup: WorkerSetup, connection: Connection) -> None:
    """A worker process: its share of the cores, its GPU, and trials while there are tickets."""
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach every process; the parent passes them on, once
        signal.signal(number, signal.SIG_IGN)
    configure(setup.debug, quiet=False)
    quiet_optuna(setup.debug)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if gpus != [""]:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[setup.index % len(gpus)]
    else:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(setup.index % torch.cuda.device_count())
    _limit_threads(setup.workers)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with interruptible(signal.SIGTERM) as asked, explaining_failures(parse_url(setup.url)):
            _work(setup, Line(connection, asked.check))
    except KeyboardInterrupt:
        return
    except NasoptError as error:
        connection.send(("error", (str(error), error.exit_code)))
        sys.exit(error.exit_code)


def _work(setup: WorkerSetup, line: Line | DeskLine, before: Mapping[str, Any] | None = None) -> None:
    """Runs trials while there are tickets; the trial of a worker that is known to be dead (`before`) is interrupted."""
    opened = with_data(open_study(parse_url(setup.url), setup.name, setup.artifacts), setup.dataset)
    if code_of(opened.config) != setup.code:
        raise UntrustedStudyError(f"the code that the study {setup.name!r} names was changed meanwhile")
    if before is not None:
        interrupt(opened.study, before)
    with explaining_machine(opened.folder), explaining_deletion(opened.study):
        run_trials(
            opened,
            Objective(
                opened.config,
                setup.artifacts,
                lambda *event: line.send("phase", event),
                accept_device_change=setup.accept_device_change,
            ),
            line.take_ticket,
            lambda trial: line.send("ended", Ended.of(trial)),
            setup.budget,
        )


def _end_with_parent() -> None:
    """Ends a worker cleanly when its parent was killed: nobody reads what it reports, and the pipe would fill up."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(JOIN_SECONDS / 2)
    os.kill(os.getpid(), signal.SIGTERM)  # it may be waiting for the pipe, and does not see the first one


def _limit_threads(workers: int) -> None:
    """Gives each worker its share of the cores: two unlimited workers on two cores are six times slower than one."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
