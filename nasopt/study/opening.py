"""Opens a study in a database.

The database alone resumes a study: configuration, artifact folder and everything a sampler needs are in it.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL

from nasopt.config.study import StudyConfig
from nasopt.errors import (
    NasoptError,
    StorageError,
    StudyFileError,
    StudyNotFoundError,
    choices,
)
from nasopt.host.files import check_writable
from nasopt.records.study import StudyRecord
from nasopt.storage.checkpoints import FOLDER as CHECKPOINTS
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.outages import Patience
from nasopt.storage.ownership import StudyPlace, place_of
from nasopt.storage.rdb import open_storage, shown
from nasopt.study.recovery import retry
from nasopt.trial.folder import adopt as adopt_folder
from nasopt.trial.folder import require_own
from nasopt.trial.objective import Objective

NOT_OURS = "the study {!r} was not made by nasopt; `nasopt study list` shows those that were"


@dataclass(frozen=True)
class OpenStudy:
    """A study of ours in a database.

    Attributes:
        study: Optuna's view of it.
        config: its configuration.
        place: the folder of its files; :meth:`StudyPlace.standing` tells whether that is its own.
        url: the database.
    """

    study: optuna.Study
    config: StudyConfig
    place: StudyPlace
    url: URL

    @property
    def name(self) -> str:
        """The study's name in the database; the configuration keeps the one that it was created with."""
        return str(self.study.study_name)

    @property
    def artifacts(self) -> Path:
        """The folder that holds the study's own."""
        return self.place.artifacts

    @property
    def folder(self) -> Path:
        """The folder of the study's files."""
        return self.place.folder

    @property
    def checkpoints(self) -> CheckpointStore:
        """The weights of its trials."""
        return CheckpointStore(self.folder / CHECKPOINTS)


def open_study(
    url: URL,
    name: str,
    artifacts: Path | None = None,
    *,
    read_only: bool = False,
    patience: Patience | None = None,
) -> OpenStudy:
    """Opens a study.

    Args:
        url: the database.
        name: the study's.
        artifacts: where the study's files are; None for the place that the study names.
        read_only: refuse every change to the database, which need not be writable then.
        patience: the wait for a server that goes away once the study is open; none if None.

    Raises:
        StorageError: the database cannot be opened.
        StudyNotFoundError: it holds no such study, or one that nasopt did not make.
        StudyFileError: its record of the study is not one that nasopt writes.
    """
    storage = open_storage(url, read_only=read_only, must_exist=True, stale_trial_callback=retry, patience=patience)
    config = stored_config(storage, name, find(storage, url, name))
    try:
        sampler = Objective(config).sampler()
    except StudyFileError as error:
        raise unreadable(name, error) from None
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    place = place_of(study, artifacts)
    if place is None:
        raise unreadable(name, "it does not say where its files are")
    return OpenStudy(study, config, place, url)


def list_studies(url: URL, artifacts: Path | None = None) -> tuple[list[OpenStudy], dict[str, str]]:
    """Every study of ours in a database, by name, to be read only.

    Returns:
        The studies that can be read; and, by name, why the others cannot.
    """
    storage = open_storage(url, read_only=True)
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    names = sorted(summary.study_name for summary in summaries if StudyRecord.of(summary).configuration is not None)
    found, unreadable = [], {}
    for name in names:
        try:
            found.append(open_study(url, name, artifacts, read_only=True))
        except NasoptError as error:
            unreadable[name] = str(error)
    return found, unreadable


def with_data(opened: OpenStudy, path: str | None) -> OpenStudy:
    """The study with its data (and model) where they are on this machine.

    Raises:
        StorageError: the data or the model there are not those that the study was created with.
    """
    from nasopt.tasks.datasets import content_hash, resolve_path

    config = opened.config
    if path is not None:
        dataset = config.task.dataset.model_copy(update={"path": resolve_path(path)})
        config = config.model_copy(update={"task": config.task.model_copy(update={"dataset": dataset})})
    hashes = StudyRecord.of(opened.study).data or {}
    for kind, place in places(config).items():
        if hashes.get(kind) is None:
            continue
        found = content_hash(place)
        if found is None:
            cure = "pass --data PATH" if kind == "dataset" else "put it back"
            raise StorageError(f"{place}: the study's {kind} is no longer there; {cure}")
        if found != hashes[kind]:
            raise StorageError(
                f"{place}: the study's {kind} has changed since it was created, so its trials would not compare; "
                "create a new study"
            )
    return replace(opened, config=config)


def require_artifacts(opened: OpenStudy) -> None:
    """Makes sure that the study's files are there, for commands that only read them.

    Raises:
        ArtifactFolderError: they are not, or they are another study's.
    """
    require_own(opened.place, "bring it back, or name it with --artifacts")


def check_artifacts(opened: OpenStudy, *, rebuild: bool = False, adopt: bool = False) -> None:
    """Makes sure that the study's files are there, are its own and can be written.

    Args:
        opened: the study.
        rebuild: where they are not there, make the folder, for a new base model.
        adopt: take the folder for the study's own, or give it a copy of the one that it shares.

    Raises:
        ArtifactFolderError: they are not there, and `rebuild` is not asked for; they are another study's; or the
            folder cannot be written.
    """
    place = opened.place
    if adopt or (rebuild and place.folder.is_dir()):
        adopt_folder(place)
    elif rebuild:
        place.claim()
    else:
        require_own(
            place,
            "bring it back, name it with --artifacts, or pass --rebuild to make the base model again and restart "
            "inheritance from it",
        )
    check_writable(place.folder)
    place.settle()
    restore_metric_names(opened)
    if rebuild:
        from nasopt.trial.base_model import forget_damaged_base

        forget_damaged_base(opened.folder, opened.checkpoints)


def restore_metric_names(opened: OpenStudy) -> None:
    """Names the values again, for Optuna and its dashboard, where renaming the study has dropped their names."""
    if opened.study.metric_names is None:
        name_metrics(opened.study, opened.config)


def name_metrics(study: optuna.Study, config: StudyConfig) -> None:
    """Names the values of a study's trials, for Optuna and its dashboard; we take the names from the configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(config.metric_names)


def find(storage: RDBStorage, url: URL, name: str) -> int:
    """The number by which the database knows the study of that name.

    Raises:
        StudyNotFoundError: there is none.
    """
    try:
        return int(storage.get_study_id_from_name(name))
    except KeyError:
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
        raise StudyNotFoundError(
            f"no study {name!r} in {shown(url)}; it has: {choices(sorted(names)) or 'none'}"
        ) from None


def is_half_made(study: optuna.Study) -> bool:
    """Whether a study is what a `create` that did not come to its end has left behind."""
    record = StudyRecord.of(study)
    if record.configuration is not None or study.get_trials(deepcopy=False):
        return False
    return record.creator is not None or not record.to_attributes()


def require_ours(study: optuna.Study) -> None:
    """Makes sure that nasopt made a study, even if it is only half made.

    Raises:
        StudyNotFoundError: it did not.
    """
    if StudyRecord.of(study).configuration is None and not is_half_made(study):
        raise StudyNotFoundError(NOT_OURS.format(study.study_name))


def stored_config(storage: RDBStorage, name: str, number: int) -> StudyConfig:
    """The configuration of a study.

    Raises:
        StudyNotFoundError: it has none.
        StudyFileError: it cannot be read.
    """
    record = StudyRecord.stored(storage, number)
    if record.configuration is None:
        if record.creator is not None:
            raise StudyNotFoundError(
                f"the study {name!r} is half made: its `nasopt study create` is still at work, or was stopped; then "
                "create it again, or delete it"
            )
        raise StudyNotFoundError(NOT_OURS.format(name))
    try:
        return StudyConfig.from_json(json.dumps(record.configuration))
    except StudyFileError as error:
        raise unreadable(name, error) from None


def unreadable(name: str, why: object) -> StudyFileError:
    """The error of a study whose stored configuration is not what nasopt writes."""
    return StudyFileError(f"the study {name!r} has a stored configuration that cannot be read: {why}")


def places(config: StudyConfig) -> dict[str, str]:
    """The things that a study is made from and that must not change, in words, each with its place."""
    tables = {f"look-up table of {latency.objective_name}": latency.lut for latency in config.latency}
    task = config.task
    retrieval = None if task.retrieval is None else task.retrieval.path
    benchmarks = {"encodechka": task.similarity.encodechka, "retrieval folder": retrieval}
    places = {"dataset": task.dataset.path, "model": task.model, **benchmarks, **tables}
    return {kind: place for kind, place in places.items() if place is not None}
