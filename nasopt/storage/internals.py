"""The private names of Optuna and optuna-dashboard that nasopt needs, each with the reason.

Nothing outside this file and `samplers/` uses such a name. A new version may drop one without a word:
`tests/storage/test_internals.py` says then which one is gone and what it was for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial

CALLS_OF_A_CACHE = ("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id")
"""Methods of `RDBStorage` that Optuna's cache calls in place of public ones: an outage may come up in each of them."""

STALE_TRIALS = "_get_stale_trial_ids"
"""The method of `RDBStorage` that says whose heartbeat has stopped, to us and to Optuna's own loop."""

ReadNote: TypeAlias = Callable[[dict[str, Any], int | None], dict[str, Any]]
"""(the study's system attributes, a trial's id or None for the study) -> the note."""


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage of a study.

    `Study._storage`: Optuna's public functions want the storage besides the study, and a study does not give it away.
    """
    return study._storage


def database_of(study: optuna.Study) -> RDBStorage | None:
    """The database of a study; None if the study lies in none (in memory, in a journal, behind a proxy).

    `_CachedStorage._backend`: Optuna wraps each database in a cache, which has neither a URL nor heartbeats.
    """
    return database_behind(storage_of(study))


def database_behind(storage: BaseStorage) -> RDBStorage | None:
    """The database that a storage keeps its studies in; None if there is none (see :func:`database_of`)."""
    backend = getattr(storage, "_backend", storage)
    return backend if isinstance(backend, RDBStorage) else None


def number_of(study: optuna.Study) -> int:
    """The number by which the storage knows a study.

    `Study._study_id`: a copy of a study carries all that is public of the original, but not this number.
    """
    return study._study_id


def study_key(study: optuna.Study) -> Hashable:
    """A key that tells two studies of this process apart, as long as both are held.

    `Study._study_id`: a study that was deleted and another of its name have different ones; names are used again.
    """
    database = database_of(study)
    return (id(storage_of(study)) if database is None else database.url), study._study_id


def is_stale(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether the heartbeat of a running trial has stopped for longer than the storage's grace period.

    `RDBStorage._get_stale_trial_ids`, `FrozenTrial._trial_id`, `Study._study_id`: what Optuna offers in public fails
    such trials at once, and they would have no reason to show.
    """
    database = database_of(study)
    return database is not None and trial._trial_id in database._get_stale_trial_ids(study._study_id)


def set_trial_user_attr(study: optuna.Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Sets a user attribute of a running trial that another process began.

    `FrozenTrial._trial_id`: only the process that began a trial has an object that can be written to.

    Raises:
        UpdateFinishedTrialError: the trial has ended.
    """
    storage_of(study).set_trial_user_attr(trial._trial_id, name, value)


def note_id(trial: optuna.Trial) -> int:
    """The number by which optuna-dashboard names a trial's note.

    `Trial._trial_id`: it is the trial's number in the whole database; the public number counts within the study.
    """
    return trial._trial_id


def set_study_system_attrs(trial: optuna.Trial, attrs: Mapping[str, Any]) -> None:
    """Sets system attributes of a trial's study, one after another in their order.

    `Study._study_id`: the public `Study.set_system_attr` is deprecated, and optuna-dashboard keeps notes nowhere else.
    """
    for name, value in attrs.items():
        trial.storage.set_study_system_attr(trial.study._study_id, name, value)


def study_system_attrs(study: optuna.Study) -> dict[str, Any]:
    """The system attributes of a study, where optuna-dashboard keeps notes and figures; do not change them.

    `Study._study_id`: the public `Study.system_attrs` is deprecated.
    """
    attrs: dict[str, Any] = storage_of(study).get_study_system_attrs(study._study_id)
    return attrs


def make_dashboard_linear(read_note: ReadNote) -> None:
    """Makes optuna-dashboard find a trial's note and artifacts without looking through those of all other trials.

    `optuna_dashboard._note`, `optuna_dashboard._serializer`: there is no setting for it. As shipped (0.21) each page
    costs trials x notes: with 10,000 of them 97 s instead of 12 (benchmarks/dashboard.py). A version that names the two
    functions differently stays as it is.

    Args:
        read_note: gives the same as `get_note_from_system_attrs`.
    """
    from optuna_dashboard import _note, _serializer

    if hasattr(_note, "get_note_from_system_attrs"):
        _note.get_note_from_system_attrs = read_note
    if hasattr(_serializer, "list_trial_artifacts"):
        original = _serializer.list_trial_artifacts
        # Artifacts of trials among the study's attributes are left out: only old versions put them there.
        _serializer.list_trial_artifacts = lambda _, trial_attrs, trial: original({}, trial_attrs, trial)
