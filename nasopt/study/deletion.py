"""Deleting a study: with its files where they are its own, and without them where they are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from nasopt.errors import ArtifactFolderError, StorageError, StudyNotFoundError
from nasopt.host.files import check_writable
from nasopt.host.object_store import remove_tree
from nasopt.records import queries
from nasopt.records.study import StudyRecord
from nasopt.storage.attachments import remove_uploads
from nasopt.storage.internals import storage_of
from nasopt.storage.ownership import StudyPlace, place_of
from nasopt.storage.rdb import artifact_folder, open_storage
from nasopt.study.opening import find, require_ours
from nasopt.study.recovery import under_way


@dataclass(frozen=True)
class Deletion:
    """A study that is to be deleted.

    Attributes:
        study: the study as Optuna loads it; its configuration need not be readable.
        url: the database.
        place: where its files are; None if it names no place.
        folder: the folder that goes with it; None if there is none, or if it is not the study's alone.
        kept: why files stay, in a line; None if none do.
    """

    study: optuna.Study
    url: URL
    place: StudyPlace | None
    folder: Path | None
    kept: str | None

    @classmethod
    def of(cls, url: URL, name: str, artifacts: Path | None = None) -> Deletion:
        """The study of that name. Nothing is deleted yet.

        Args:
            url: the database.
            name: the study's name.
            artifacts: where the study's files are; None for the place that the study names.

        Raises:
            StorageError: the database cannot be opened, or holds no such study of ours.
        """
        storage = open_storage(url, must_exist=True)
        find(storage, url, name)
        study = optuna.load_study(study_name=name, storage=storage)
        require_ours(study)
        place = place_of(study, artifacts)
        if place is None:
            return cls(study, url, None, None, None)
        return cls(study, url, place, *files_of(place))

    def run(self) -> None:
        """Deletes the study, and its files.

        Raises:
            StorageError: a process is running trials of it.
            ArtifactFolderError: its files cannot be removed; then nothing is deleted.
        """
        _refuse_running(self.study)
        if self.folder is not None:
            check_writable(self.folder.parent)
            check_writable(self.folder)
        if self.kept is None and self.place is not None:
            remove_uploads(self.study, [self.place.artifacts, artifact_folder(self.url)])
        optuna.delete_study(study_name=self.study.study_name, storage=storage_of(self.study))
        if self.folder is not None:
            remove_tree(self.folder)


def files_of(place: StudyPlace) -> tuple[Path | None, str | None]:
    """The folder that goes with a study when it is deleted, and why files stay, in a line."""
    try:
        folder = place.folder
        if copies := place.copies():
            return None, f"{folder} stays: {', '.join(map(repr, copies))} shares it"
        standing = place.standing()
        if standing.is_own:
            return folder, None
        return None, f"its files stay: {place.explain()}" if folder.is_dir() else None
    except ArtifactFolderError as error:
        return None, f"its files stay: {error}"


@contextmanager
def explaining_deletion(study: optuna.Study) -> Iterator[None]:
    """Makes one line of whatever goes wrong in a run because the study is deleted meanwhile.

    Raises:
        StudyNotFoundError: with that line.
    """
    name, own_id = study.study_name, StudyRecord.of(study).id
    try:
        yield
    except Exception:
        if _has(storage_of(study), name, own_id):
            raise
        raise StudyNotFoundError(f"the study {name!r} was deleted while it was being run") from None


def _has(storage: BaseStorage, name: str, own_id: str | None) -> bool:
    """Whether a storage still has the study, as far as it answers."""
    try:
        return StudyRecord.stored(storage, storage.get_study_id_from_name(name)).id == own_id
    except KeyError:
        return False
    except (StorageInternalError, SQLAlchemyError):
        return True


def _refuse_running(study: optuna.Study) -> None:
    for trial in under_way(study):
        worker = queries.worker_of(trial) or {}
        process = f"process {worker['pid']} on {worker['host']}" if worker else "a process"
        raise StorageError(
            f"the study {study.study_name!r} is being run: {process} is at trial {trial.number}; end it first"
        )
