"""Interrupted trials: found, failed with their reason, and queued again.

A trial is interrupted by Ctrl-C or SIGTERM (its own process records it) or by the end of its process (another one finds
it). The process that finds it settles it under a lock in the study's folder, so that workers never queue the same trial
twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nasopt.host.files import lock_in
from nasopt.host.identity import is_gone, worker_identity
from nasopt.records import queries
from nasopt.records.interruption import interruption, may_be_retried, was_interrupted
from nasopt.records.trial import TrialRecord
from nasopt.samplers.history import parent_of, proposed_params
from nasopt.storage.internals import is_stale, set_trial_user_attr

UNIDENTIFIED_GRACE = timedelta(seconds=30)
"""A running trial that names no process this long after its start belonged to one that was killed in between."""


class _End(NamedTuple):
    """The end of a trial that its own process did not record."""

    reason: str
    died: bool


def settle_interrupted(study: optuna.Study, folder: Path) -> None:
    """Fails the trials of dead processes and queues what was interrupted, once for each interruption.

    Trials of live processes are left alone. A process on another host counts as dead when its heartbeat has stopped
    for the storage's grace period.

    Call it between trials: a trial that this process began is then not under way any more.

    Args:
        folder: the study's artifact folder, which its workers share.

    Raises:
        MachineError: the folder is gone.
    """
    with lock_in(folder, ".interrupted.lock"):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            end = _end_of(study, trial)
            if end is not None:
                fail_interrupted(study, trial, end.reason, died=end.died)
        trials = study.get_trials(deepcopy=False)
        retried = queries.retried(trials)
        for trial in trials:
            if trial.state == TrialState.FAIL and queries.is_interrupted(trial) and trial.number not in retried:
                retry(study, trial)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues an interrupted trial again, unless that is given up: same parameters, same parent."""
    params = {**proposed_params(trial), **trial.params}
    if not (params or queries.is_base(trial) or queries.is_control(trial)):
        return
    if not may_be_retried(trial, study.get_trials(deepcopy=False)):
        return
    marks = TrialRecord.of(trial).as_retry(trial.number, parent_of(trial))
    study.enqueue_trial(params, user_attrs=marks.to_attributes())


@contextmanager
def recording_interruptions(study: optuna.Study) -> Iterator[None]:
    """Fails this process's trial where Ctrl-C or SIGTERM came before the objective could, while it was being made."""
    try:
        yield
    except KeyboardInterrupt as error:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if queries.worker_of(trial) in (None, worker_identity()):
                fail_interrupted(study, trial, f"interrupted: {str(error) or 'Ctrl-C'}")
        raise


def interrupt(study: optuna.Study, worker: Mapping[str, Any]) -> None:
    """Fails the trials of a process that is known to be dead, wherever it was."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if queries.worker_of(trial) == worker:
            fail_interrupted(study, trial, "interrupted: its node was lost", died=True)


def fail_interrupted(study: optuna.Study, trial: FrozenTrial, reason: str, *, died: bool = False) -> None:
    """Fails a running trial with its reason, unless it has ended in the meantime.

    Args:
        died: whether its process ended without a word.
    """
    try:
        set_attribute = partial(set_trial_user_attr, study, trial)
        interruption(trial, study.get_trials(deepcopy=False), reason, died=died).write_with(set_attribute)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return


def under_way(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that a process is running, as far as can be told."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if _end_of(study, trial) is None]


def was_given_up(study: optuna.Study, number: int) -> bool:
    """Whether a trial was failed by another process than its own."""
    trials = study.get_trials(deepcopy=False)
    trial = trials[number]
    interrupted = was_interrupted(trial) or number in queries.retried(trials)
    return bool(trial.state == TrialState.FAIL and interrupted)


def _end_of(study: optuna.Study, trial: FrozenTrial) -> _End | None:
    """Says why a running trial is under way no more; None if it still is, as far as can be told."""
    worker = queries.worker_of(trial)
    if worker is None:
        assert trial.datetime_start is not None
        abandoned = datetime.now() - trial.datetime_start > UNIDENTIFIED_GRACE
        return _End("interrupted: its process ended before it said which", died=True) if abandoned else None
    if is_gone(worker):
        return _End("interrupted: its process is gone", died=True)
    if worker == worker_identity():  # it has no other trial under way, or it would not be here
        return _End("interrupted: its end could not be recorded", died=False)
    if is_stale(study, trial):  # Optuna looks, too, before each trial, but gives what it fails no reason
        return _End(f"interrupted: no sign of life from {worker['host']}", died=True)
    return None
