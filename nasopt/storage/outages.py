"""Databases that go away while trials run, a server that restarts above all: the work waits, and goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from nasopt.host.pausing import stand_by
from nasopt.storage.internals import CALLS_OF_A_CACHE, STALE_TRIALS, database_of

HEARTBEAT_SECONDS = 20
GRACE_SECONDS = 120
SETTLING_SECONDS = 2 * HEARTBEAT_SECONDS
"""For so long after an outage no heart is missed: those that could not be recorded come one after another."""
_RETRY_SECONDS, _LOOK_SECONDS = 1.0, 0.1

Tell = Callable[[bool, str], None]
"""(whether the database is away, in words)."""

T = TypeVar("T")

logger = logging.getLogger("nasopt")


class Patience:
    """The time that the work waits for a database.

    It counts from the moment at which the database was first missed, so that however many steps fail in one outage, the
    wait is the same.

    Args:
        seconds: the longest wait; 0 for none.
        at_opening: whether to wait also for a database that is away from the beginning.
        tell: told when the wait begins and when it has ended well; by default a warning is logged.
    """

    def __init__(self, seconds: float = 0.0, *, at_opening: bool = False, tell: Tell | None = None) -> None:
        self.seconds, self.at_opening = seconds, at_opening
        self._tell = tell or (lambda _, text: logger.warning("%s", text))
        self._missed: float | None = None
        self._back: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the database has been away for longer than the wait."""
        return self._missed is not None and time.monotonic() - self._missed >= self.seconds

    @property
    def was_just_needed(self) -> bool:
        """Whether an outage has ended so lately that others' heartbeats may not have been recorded again."""
        return self._back is not None and time.monotonic() - self._back < SETTLING_SECONDS

    def call(self, step: Callable[[], T], database: str) -> T:
        """The result of a step, which is tried until it works, the wait is over, or it fails for another reason.

        Args:
            step: may be done more than once.
            database: the name for messages.

        Raises:
            KeyboardInterrupt: the process was asked to end during the wait.
        """
        while True:
            try:
                result = step()
            except (SQLAlchemyError, StorageInternalError) as error:
                if not self.seconds or not is_away(error):
                    raise
                if self._missed is None:
                    self._missed = time.monotonic()
                    wait = f"waiting up to {self.seconds:g} s for it"
                    self._tell(True, f"{database}: the database is away ({first_line(error)}); {wait}")
                if self.is_over:
                    raise
                pause()
            else:
                if self._missed is not None:
                    self._back = time.monotonic()
                    away, self._missed = self._back - self._missed, None
                    self._tell(False, f"{database}: the database is back after {away:.0f} s")
                return result


class Storage(RDBStorage):
    """Optuna's storage, each call of which outlives an outage of the database.

    A call is one transaction: one that broke has left nothing behind, and is made again.

    Attributes:
        patience: the longest wait; none unless it is set.
        shown: the database's name for messages.
    """

    patience = Patience()
    shown = ""

    def record_heartbeat(self, trial_id: int) -> None:
        """Runs in a thread of its own, where an error would be printed and end all further heartbeats.

        During an outage it is tried again and again: when the database is back, hearts beat at once.
        """
        deadline = time.monotonic() + self.patience.seconds
        while True:
            try:
                return super().record_heartbeat(trial_id)
            except (StorageInternalError, SQLAlchemyError) as error:
                logger.debug("a heartbeat could not be written", exc_info=True)
                if not is_away(error) or time.monotonic() >= deadline or self.patience.is_over:
                    return
            try:
                pause()
            except KeyboardInterrupt:
                return  # it is the main thread's to obey

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """A connection that breaks once the change is made, but before that is confirmed, hides that it was."""
        tries = 0

        def step() -> bool:
            nonlocal tries
            tries += 1
            try:
                return RDBStorage.set_trial_state_values(self, trial_id, state, values)
            except UpdateFinishedTrialError:
                stored = RDBStorage.get_trial(self, trial_id)
                is_mine = stored.state == state and (values is None or stored.values == list(values))
                if tries == 1 or not is_mine:
                    raise
                return True

        return self.patience.call(step, self.shown)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        def step() -> list[int]:
            found: list[int] = getattr(RDBStorage, STALE_TRIALS)(self, study_id)
            return found

        stale = self.patience.call(step, self.shown)
        return [] if self.patience.was_just_needed else stale


def patience_of(study: optuna.Study) -> Patience:
    """The patience with which the database of a study was opened."""
    database = database_of(study)
    return database.patience if isinstance(database, Storage) else Patience()


def is_away(error: SQLAlchemyError | StorageInternalError) -> bool:
    """Whether an error says that a server cannot be reached, or has cut the connection."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, (OperationalError, InterfaceError)):
        return False
    return cause.connection_invalidated or cause.statement is None


def first_line(error: BaseException) -> str:
    """The driver's message, without SQLAlchemy's words and statements around it."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    original = (cause.orig if isinstance(cause, DBAPIError) else None) or cause.__cause__ or cause
    return (str(original).strip() or type(original).__name__).splitlines()[0]


def pause() -> None:
    """Waits for a moment.

    Raises:
        KeyboardInterrupt: the process was asked to end.
    """
    end = time.monotonic() + _RETRY_SECONDS
    while time.monotonic() < end:
        stand_by()
        time.sleep(_LOOK_SECONDS)


def _patient(name: str) -> Callable[..., Any]:
    whole = getattr(RDBStorage, name)

    @wraps(whole)
    def call(storage: Storage, *arguments: Any, **options: Any) -> Any:
        return storage.patience.call(lambda: whole(storage, *arguments, **options), storage.shown)

    return call


# The methods that read and write a study; Optuna's cache calls some of them by private names.
for _name in [*(name for name in vars(BaseStorage) if not name.startswith("_")), *CALLS_OF_A_CACHE]:
    if _name not in vars(Storage) and _name not in ("check_trial_is_updatable", "remove_session"):
        setattr(Storage, _name, _patient(_name))
