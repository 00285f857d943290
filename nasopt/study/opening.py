"""A study in a database: create, open, run, resume, delete.

The database alone resumes a study: configuration, artifact folder and everything a sampler needs are in it.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL

from nasopt.config.study import StudyConfig
from nasopt.errors import (
    ArtifactFolderError,
    StorageError,
    StudyFileError,
    StudyNotFoundError,
    choices,
)
from nasopt.host.files import check_writable, ensure_writable
from nasopt.records import queries
from nasopt.records.study import StudyRecord
from nasopt.storage.attachments import remove_uploads
from nasopt.storage.checkpoints import FOLDER as CHECKPOINTS
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.internals import storage_of
from nasopt.storage.rdb import artifact_folder, open_storage, shown
from nasopt.study.recovery import retry
from nasopt.trial.objective import Objective

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class OpenStudy:
    """A study of ours in a database.

    Attributes:
        study: Optuna's view of it.
        config: its configuration.
        artifacts: the folder that holds `<study name>/` with its files.
        url: the database.
    """

    study: optuna.Study
    config: StudyConfig
    artifacts: Path
    url: URL

    @property
    def folder(self) -> Path:
        """The folder of the study's files."""
        return self.artifacts / self.config.name

    @property
    def checkpoints(self) -> CheckpointStore:
        """The weights of its trials."""
        return CheckpointStore(self.folder / CHECKPOINTS)


def open_study(url: URL, name: str, artifacts: Path | None = None, *, read_only: bool = False) -> OpenStudy:
    """Opens a study.

    Args:
        url: the database.
        name: the study's.
        artifacts: where the study's files are; where it says if None.
        read_only: refuse every change to the database, which need not be writable then.

    Raises:
        StorageError: the database cannot be opened.
        StudyNotFoundError: it holds no such study, or one that nasopt did not make.
        StudyFileError: what it holds of the study is not what nasopt writes.
    """
    storage = open_storage(url, read_only=read_only, must_exist=True, stale_trial_callback=retry)
    if not _exists(storage, name):
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
        raise StudyNotFoundError(f"no study {name!r} in {shown(url)}; it has: {choices(sorted(names)) or 'none'}")
    config = _stored_config(storage, name)
    try:
        sampler = Objective(config).sampler()
    except StudyFileError as error:
        raise _unreadable(name, error) from None
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    stored = StudyRecord.of(study).artifacts
    if not isinstance(stored, str) or not stored:
        raise _unreadable(name, "it does not say where its files are")
    return OpenStudy(study, config, (artifacts or Path(stored)).resolve(), url)


def list_studies(url: URL, artifacts: Path | None = None) -> list[OpenStudy]:
    """Every study of ours in a database, by name, to be read only."""
    storage = open_storage(url, read_only=True)
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    names = sorted(summary.study_name for summary in summaries if StudyRecord.of(summary).configuration is not None)
    return [open_study(url, name, artifacts, read_only=True) for name in names]


def delete(opened: OpenStudy) -> None:
    """Removes a study from the database, and its files.

    Raises:
        ArtifactFolderError: its files cannot be removed; then nothing is.
    """
    if opened.folder.is_dir():
        check_writable(opened.artifacts)
        check_writable(opened.folder)
    remove_uploads(opened.study, [opened.artifacts, artifact_folder(opened.url)])
    optuna.delete_study(study_name=opened.config.name, storage=storage_of(opened.study))
    shutil.rmtree(opened.folder, ignore_errors=True)


def with_data(opened: OpenStudy, path: str | None) -> OpenStudy:
    """The study with its data (and model) where they are on this machine.

    Raises:
        StorageError: what is there is not what the study was created with.
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
    return OpenStudy(opened.study, config, opened.artifacts, opened.url)


def require_artifacts(opened: OpenStudy) -> None:
    """Makes sure that the study's files are there, for commands that only read them.

    Raises:
        ArtifactFolderError: they are not.
    """
    if not opened.folder.is_dir():
        raise ArtifactFolderError(
            f"{opened.folder}: the study's artifact folder is not there; bring it back, or name it with --artifacts"
        )


def check_artifacts(opened: OpenStudy, rebuild: bool) -> None:
    """Makes sure that the study's files are there, if it has any trial, and can be written.

    Raises:
        ArtifactFolderError: they are not there, and `rebuild` is not asked for; or the folder cannot be written.
    """
    if queries.base_of(opened.study) is not None and not opened.folder.is_dir() and not rebuild:
        raise ArtifactFolderError(
            f"{opened.folder}: the study's artifact folder is not there; bring it back, name it with --artifacts, or "
            "pass --rebuild to make the base model again and restart inheritance from it"
        )
    ensure_writable(opened.folder)
    if rebuild:
        from nasopt.trial.base_model import forget_damaged_base

        forget_damaged_base(opened.folder, opened.checkpoints)


def _exists(storage: RDBStorage, name: str) -> bool:
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def _stored_config(storage: RDBStorage, name: str) -> StudyConfig:
    stored = StudyRecord.stored(storage, storage.get_study_id_from_name(name)).configuration
    if stored is None:
        raise StudyNotFoundError(
            f"the study {name!r} was not made by nasopt; `nasopt study list` shows those that were"
        )
    try:
        return StudyConfig.from_json(json.dumps(stored))
    except StudyFileError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, why: object) -> StudyFileError:
    return StudyFileError(f"the study {name!r} cannot be opened: {why}")


def places(config: StudyConfig) -> dict[str, str]:
    """What a study is made from and must not change, in words, with where it is."""
    tables = {f"look-up table of {latency.objective_name}": latency.lut for latency in config.latency}
    task = config.task
    places = {"dataset": task.dataset.path, "model": task.model, "encodechka": task.similarity.encodechka, **tables}
    return {kind: place for kind, place in places.items() if place is not None}
