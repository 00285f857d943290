"""The study's budget of trials, shared by all commands and workers that run at once."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import TrialState

from nasopt.host.files import lock_in
from nasopt.records import queries


class Budget:
    """Leave to begin a trial, so that no more of them end than the whole search takes.

    From the leave until the trial is under way, and others see it, a lock is held.

    Args:
        study: the study with the budget.
        folder: the study's artifact folder, which all processes that run trials share.
        size: trials of a whole search; None if this call has a number of trials of its own.
    """

    def __init__(self, study: optuna.Study, folder: Path, size: int | None) -> None:
        self._study, self._folder, self._size = study, folder, size
        self._lock = lock_in(folder, ".budget.lock")

    def is_left(self) -> bool:
        """Whether a trial might begin, as far as can be told without the lock."""
        return self._size is None or used(self._study) < self._size

    def take(self) -> bool:
        """Whether one more trial may begin. If so, :meth:`begun` must be called, whatever becomes of it.

        Raises:
            MachineError: the folder is gone.
        """
        if self._size is None:
            return True
        self._lock = lock_in(self._folder, ".budget.lock")
        self._lock.acquire()
        if self.is_left():
            return True
        self._lock.release()
        return False

    def begun(self) -> None:
        """The trial is under way, or has failed to begin."""
        self._lock.release()


def used(study: optuna.Study) -> int:
    """Trials of the search that have ended or are under way."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    under_way = [trial for trial in running if not (queries.is_base(trial) or queries.is_control(trial))]
    return len(queries.finished_trials(study)) + len(under_way)
