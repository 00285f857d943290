"""The ownership of artifact folders: a study and its folder name each other, and both must say the same.

A study has a random id, stored with it and, with the database and the study's number there, in `study.json` of its
folder. All three must match, because a copy of a study (`optuna.copy_study`, a copied database) carries the id along.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage

from nasopt.errors import ArtifactFolderError, StorageError
from nasopt.host.files import ensure_writable, write_atomically
from nasopt.host.object_store import artifacts_root, is_url, names, refresh, url_of
from nasopt.records.claim import CLAIM, Claim
from nasopt.records.study import StudyRecord
from nasopt.storage.internals import database_behind, number_of, storage_of
from nasopt.storage.rdb import artifact_folder, open_storage, parse_url, shown, sqlite_path

IDENTITY = {
    "postgresql": (
        "SELECT system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "|| '/' || current_schema() FROM pg_control_system()",
    ),
    "mysql": ("SELECT CONCAT(@@server_uuid, '/', DATABASE())", "SELECT CONCAT(@@server_uid, '/', DATABASE())"),
}
"""Queries for the name that a server gives a database, whatever name the server itself goes by from here; MySQL and
MariaDB have one each."""


@dataclass(frozen=True)
class Database:
    """The database of a study.

    Attributes:
        key: tells it from all others.
        path: its file, for SQLite.
        shown: its name for people, without a password.
    """

    key: str
    path: Path | None
    shown: str

    @classmethod
    def of(cls, storage: BaseStorage) -> Database:
        """The database behind a storage."""
        database = database_behind(storage)
        if database is None:
            kind = type(storage).__name__
            return cls(kind, None, kind)
        url = parse_url(database.url)
        path = sqlite_path(url)
        if path is not None:
            return cls(str(path), path, str(path))
        key = url.set(drivername=url.get_backend_name(), username=None, password=None, query={}).render_as_string()
        for question in IDENTITY.get(url.get_backend_name(), ()):
            # A server that does not tell is known by its address.
            with suppress(sqlalchemy.exc.SQLAlchemyError), database.engine.connect() as connection:
                key = f"{url.get_backend_name()}:{connection.exec_driver_sql(question).scalar_one()}"
                break
        return cls(key, None, shown(url))

    def default_folder(self) -> Path:
        """The folder of studies' files where nothing else is said; see :func:`nasopt.storage.rdb.artifact_folder`."""
        return artifact_folder(parse_url("sqlite://" if self.path is None else f"sqlite:///{self.path}"))

    def folder(self, stored: str) -> Path:
        """The path of a folder that a study of this database names; relative ones are relative to the SQLite file."""
        if is_url(stored):
            return artifacts_root(stored)
        return Path(stored) if self.path is None else self.path.parent / stored

    def stored(self, folder: Path) -> str:
        """The name that a study stores for a folder: relative to the SQLite file for the default one, so that both can
        be moved; the URL for the cache of an object store."""
        if (url := url_of(folder)) is not None:
            return url
        if self.path is not None and folder == self.default_folder():
            return folder.name
        return str(folder)


class Standing(Enum):
    """The relation of a study to the folder that it takes for its own."""

    OWN = auto()
    """The folder names exactly this study."""
    INHERITED = auto()
    """It names a study that is no more, and this one was made from it: renamed, or the only copy."""
    OLDER = auto()
    """The study has no id yet, and no other one uses the folder: an earlier version made both."""
    FOREIGN = auto()
    """It names another study, or another one uses it, too."""
    UNNAMED = auto()
    """It names no study at all."""
    ABSENT = auto()
    """It is not there."""

    @property
    def is_own(self) -> bool:
        """Whether the study may read, write and delete the folder's files."""
        return self in (Standing.OWN, Standing.INHERITED, Standing.OLDER)


@dataclass(frozen=True)
class StudyPlace:
    """A study and the folder of its files.

    Attributes:
        study: as Optuna loads it, with any sampler.
        artifacts: the folder that holds `<name>/` with the study's files; absolute.
        name: the folder's name there.
        is_known: whether `artifacts` is the database's default, or was given by the user. Otherwise the study alone
            names it, and anybody who can write to the database could have named any folder.
    """

    study: optuna.Study
    artifacts: Path
    name: str
    is_known: bool = True

    @property
    def folder(self) -> Path:
        """The folder of the study's files.

        Raises:
            ArtifactFolderError: its stored name leads elsewhere.
        """
        if self.name[:1] in ("", ".") or set(self.name) & set("/\\\0"):
            raise ArtifactFolderError(f"the study's stored name {self.name!r} is not that of a folder")
        return self.artifacts / self.name

    @property
    def database(self) -> Database:
        """The database that the study is stored in."""
        return Database.of(storage_of(self.study))

    def standing(self) -> Standing:
        """The present relation of the study to its folder.

        Raises:
            ArtifactFolderError: the folder's `study.json` cannot be read.
        """
        self._arrive()
        if not self.folder.is_dir():
            return Standing.ABSENT
        claim, own_id = read_claim(self.folder), StudyRecord.of(self.study).id
        if claim is None:
            if own_id is not None or not _may_be_a_studys(self.folder):
                return Standing.UNNAMED
            if self._older_users():
                return Standing.FOREIGN
            return Standing.OLDER if self.is_known else Standing.UNNAMED
        database = self.database
        if claim.id != own_id or claim.database_from(self.folder) != database.key:
            return Standing.FOREIGN
        if claim.number == number_of(self.study):
            return Standing.OWN
        return Standing.INHERITED if not (self._claimant(claim) or self.copies()) else Standing.FOREIGN

    def may_be_copied(self) -> bool:
        """Whether the folder is there, and holds files of this study or of the one that it is a copy of."""
        if not self.folder.is_dir():
            return False
        claim = read_claim(self.folder)
        return self.is_known if claim is None else claim.id == StudyRecord.of(self.study).id

    def copies(self) -> list[str]:
        """Names of the other studies of the database that carry the same id: copies of this one, or its original."""
        own_id = StudyRecord.of(self.study).id
        if own_id is None:
            return []
        others = storage_of(self.study).get_all_studies()
        return sorted(
            other.study_name
            for other in others
            if other.study_name != self.study.study_name and StudyRecord.of(other).id == own_id
        )

    def explain(self) -> str:
        """Says in one line why the folder is not the study's own, and how the study gets one."""
        folder, name, claim = self.folder, self.study.study_name, read_claim(self.folder)
        own_copy = f"`nasopt study optimize {name} --artifacts OTHER --adopt` gives it a copy of its own in OTHER"
        if claim is not None:
            owner = self._claimant(claim) or claim.study
            copied = ", of which this one is a copy" if claim.id == StudyRecord.of(self.study).id else ""
            place = claim.database_from(folder) if claim.relative is not None else claim.place
            whose = f"belongs to the study {owner!r} of {place}{copied}"
        elif users := self._older_users():
            whose = f"is used by {', '.join(users)}, too"
        else:
            return f"{folder}: the artifact folder does not say whose it is; if it is this study's, pass --adopt"
        return (
            f"{folder}: the artifact folder of {name!r} {whose}: {own_copy}; where that study is no more, --adopt "
            "alone takes the folder over"
        )

    def claim(self) -> StudyPlace:
        """Gives the study a new id and this folder, which is made if need be, whichever study it belonged to.

        Returns:
            The same place.

        Raises:
            ArtifactFolderError: the folder cannot be written.
        """
        ensure_writable(self.folder)
        database, new = self.database, secrets.token_hex(16)
        StudyRecord(id=new, artifacts=database.stored(self.artifacts), folder=self.name).write_to(self.study)
        self._write(database, new)
        return self

    def settle(self) -> None:
        """Writes down that the folder is the study's where that is known without having been written.

        Commands that write call it.
        """
        if self.standing() is Standing.OLDER:
            with self._locked():
                if self.standing() is Standing.OLDER:
                    self.claim()
            return
        claim, database = read_claim(self.folder), self.database
        known = claim is not None and (claim.number, claim.database) == (number_of(self.study), database.key)
        if claim is not None and not known and self.standing().is_own:  # it was renamed, or moved with its database
            self._write(database, claim.id)

    def used_by_a_living_study(self) -> bool:
        """Whether the folder's `study.json` names another study that exists, as far as can be told, and uses it."""
        claim = read_claim(self.folder) if self.folder.is_dir() else None
        return claim is not None and self._claimant(claim) is not None

    def _arrive(self) -> None:
        """Brings the folder's claim from the object store, if the folder is a part of its cache.

        What the cache holds of another study, which had the folder before, is removed.
        """
        if url_of(self.artifacts) is None:
            return
        before = read_claim(self.folder)
        if not refresh(self.folder / CLAIM):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif before is not None and (now := read_claim(self.folder)) is not None and now.id != before.id:
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def _write(self, database: Database, new: str) -> None:
        is_cache = url_of(self.artifacts) is not None  # which lies elsewhere on each machine
        relative = None if database.path is None or is_cache else os.path.relpath(database.path, self.folder.resolve())
        study, number = self.study.study_name, number_of(self.study)
        claim = Claim(new, number, database.key, relative, study, database.shown)
        write_atomically(self.folder / CLAIM, claim.to_json())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock, so that one process at a time gives the folder to a study."""
        lock = FileLock(self.artifacts / f".{self.name}.lock")
        with lock:
            yield
            # A process that waited for the lock, or makes its file anew, finds everything done.
            Path(lock.lock_file).unlink(missing_ok=True)

    def _claimant(self, claim: Claim) -> str | None:
        """The name of the study that a claim names, if it is another one and still there; None if it is not."""
        mine, database = self.database, claim.database_from(self.folder)
        if database == mine.key:
            if claim.number == number_of(self.study):
                return None
            return _living(storage_of(self.study), claim, self.folder)
        if claim.relative is None:
            return claim.study  # there is no telling: a server may be out of reach from here
        if not Path(database).is_file():
            return None
        try:
            return _living(open_storage(parse_url(f"sqlite:///{database}"), read_only=True), claim, self.folder)
        except StorageError:
            return claim.study

    def _older_users(self) -> list[str]:
        """Other users of a folder that names none: studies of the same database, or the one that lies beside it."""
        database, folder = self.database, self.folder
        users = []
        for other in storage_of(self.study).get_all_studies():
            record = StudyRecord.of(other)
            name = record.folder or (record.configuration or {}).get("name")
            if other.study_name == self.study.study_name or record.artifacts is None or name is None:
                continue
            if database.folder(record.artifacts) / str(name) == folder:
                users.append(repr(other.study_name))
        beside = self.artifacts.with_suffix("")
        if self.artifacts.suffix == ".artifacts" and beside.is_file() and str(beside.resolve()) != database.key:
            users.append(f"a study of {beside}")
        return users


def _may_be_a_studys(folder: Path) -> bool:
    """Whether a folder that names no study holds what an earlier version left in one.

    The database alone says where a study's folder is, and anybody with access to it may have named another one.
    """
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return bool(names & {"base.json", "checkpoints"}) or names <= {"data", "attachments"}


def read_claim(folder: Path) -> Claim | None:
    """The claim in a folder, which says whose it is; None if there is none.

    Raises:
        ArtifactFolderError: its `study.json` cannot be read.
    """
    try:
        return Claim.from_json((folder / CLAIM).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactFolderError(
            f"{folder / CLAIM}: it does not say whose the artifact folder is ({error}); remove the file and pass "
            "--adopt if the folder is the study's"
        ) from None


def place_of(study: optuna.Study, artifacts: Path | None = None) -> StudyPlace | None:
    """The place of a study that names a folder; None for a study that names none.

    Args:
        study: the study.
        artifacts: the folder that holds the study's own, if not the one that the study names.
    """
    record = StudyRecord.of(study)
    name = record.folder or (record.configuration or {}).get("name")
    if name is None or record.artifacts is None:
        return None
    if artifacts is not None:
        return StudyPlace(study, artifacts.resolve(), str(name))
    database = Database.of(storage_of(study))
    root = database.folder(record.artifacts).resolve()
    return StudyPlace(study, root, str(name), is_known=root == database.default_folder().resolve())


def new_place(study: optuna.Study, artifacts: Path, name: str) -> StudyPlace:
    """Makes and claims a folder for a new study: the one of its name, or another one where that is not empty.

    Raises:
        ArtifactFolderError: it cannot be written.
    """
    place = StudyPlace(study, artifacts.resolve(), name)
    ensure_writable(place.artifacts)
    with place._locked():
        if names(place.folder):
            place = replace(place, name=f"{name}-{secrets.token_hex(4)}")
        return place.claim()


def _living(storage: BaseStorage, claim: Claim, folder: Path) -> str | None:
    """The name of the study that a claim names, if its database still has it.

    If the study has another folder that exists, then this one was copied by hand, claim and all.
    """
    try:
        found = StudyRecord.stored(storage, claim.number)
        name = storage.get_study_name_from_id(claim.number)
    except KeyError:
        return None
    if found.id != claim.id:
        return None
    if found.artifacts is not None and found.folder is not None:
        named = Database.of(storage).folder(found.artifacts) / found.folder
        if named.is_dir() and not named.samefile(folder):
            return None
    return name
