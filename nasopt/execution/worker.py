"""A worker: runs trials of a study while it may, in a process of this machine or on a node of a cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import NasoptError, UntrustedStudyError
from nasopt.execution.crew import JOIN_SECONDS, Line
from nasopt.execution.devices import threads_of_each
from nasopt.execution.search import run_trials
from nasopt.host.interruption import interruptible
from nasopt.host.logs import configure, quiet_optuna
from nasopt.host.object_store import artifacts_root
from nasopt.records import queries
from nasopt.records.latency import predicted_words
from nasopt.records.trial import TrialRecord
from nasopt.storage.outages import Patience, patience_of
from nasopt.storage.rdb import explaining_failures, parse_url
from nasopt.study.deletion import explaining_deletion
from nasopt.study.opening import OpenStudy, open_study, with_data
from nasopt.study.recovery import interrupt
from nasopt.study.trust import code_of
from nasopt.trial.failures import explaining_machine
from nasopt.trial.objective import Objective

if TYPE_CHECKING:
    from nasopt.execution.cluster import DeskLine


@dataclass(frozen=True)
class WorkerSetup:
    """The setup of a worker process; `code` is the code that the study named when it was found to be trusted."""

    url: str
    name: str
    artifacts: Path
    dataset: str
    workers: int
    debug: bool
    accept_device_change: bool
    budget: int | None
    code: Mapping[str, str]
    database_wait: float


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


def setup_of(
    opened: OpenStudy, workers: int, debug: bool, accept_device_change: bool, budget: int | None
) -> WorkerSetup:
    """The setup of each worker of a command."""
    return WorkerSetup(
        opened.url.render_as_string(hide_password=False),
        opened.name,
        opened.artifacts,
        opened.config.task.dataset.path,
        workers,
        debug,
        accept_device_change,
        budget,
        code_of(opened.config),
        patience_of(opened.study).seconds,
    )


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


def run_on_node(
    setup: WorkerSetup, artifacts: str, line: DeskLine, share: int, before: Mapping[str, Any] | None
) -> tuple[str, int] | None:
    """A worker on a node of a cluster, whose predecessor's trial, if it had one, is interrupted."""
    configure(setup.debug, quiet=False)
    quiet_optuna(setup.debug)
    _limit_threads(share)
    try:
        with explaining_failures(parse_url(setup.url)):
            work(replace(setup, artifacts=artifacts_root(artifacts)), line, before)
    except KeyboardInterrupt:
        pass
    except NasoptError as error:
        return str(error), error.exit_code
    return None


def run_in_process(setup: WorkerSetup, connection: Connection) -> None:
    """A worker process: its share of the cores, and trials while there are tickets."""
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach every process; the parent passes them on, once
        signal.signal(number, signal.SIG_IGN)
    configure(setup.debug, quiet=False)
    quiet_optuna(setup.debug)
    _limit_threads(setup.workers)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with interruptible(signal.SIGTERM) as asked, explaining_failures(parse_url(setup.url)):
            work(setup, Line(connection, asked.check))
    except KeyboardInterrupt:
        return
    except NasoptError as error:
        with suppress(OSError):  # another worker has said so before
            connection.send(("error", (str(error), error.exit_code)))
        sys.exit(error.exit_code)


def work(setup: WorkerSetup, line: Line | DeskLine, before: Mapping[str, Any] | None = None) -> None:
    """Runs trials while there are tickets; the trial of a worker that is known to be dead (`before`) is interrupted."""
    patience = Patience(setup.database_wait, at_opening=True, tell=lambda *event: line.send("database", event))
    opened = open_study(parse_url(setup.url), setup.name, setup.artifacts, patience=patience)
    opened = with_data(opened, setup.dataset)
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
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(JOIN_SECONDS / 2)
    os.kill(os.getpid(), signal.SIGTERM)  # it may be waiting for the pipe, and does not see the first one


def _limit_threads(workers: int) -> None:
    """Gives each worker its share of the cores: two unlimited workers on two cores are six times slower than one."""
    import torch

    torch.set_num_threads(threads_of_each(workers))
