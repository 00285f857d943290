"""The artifact folder of a study: found, made for a new one, or given to one that has none of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna

from nasopt.config.study import StudyConfig
from nasopt.errors import ArtifactFolderError
from nasopt.host.files import check_writable, ensure_writable, partial_name
from nasopt.host.object_store import fetch_tree, send_tree
from nasopt.records import queries
from nasopt.records.claim import CLAIM
from nasopt.storage.checkpoints import FOLDER as CHECKPOINTS
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.internals import database_of
from nasopt.storage.ownership import Standing, StudyPlace, new_place, place_of
from nasopt.storage.rdb import artifact_folder, parse_url

UNNAMED = "no-name-"
"""Names of studies that Optuna made up begin so."""


def folder_of(study: optuna.Study, config: StudyConfig, artifacts: Path | None, *, adopt_it: bool = False) -> Path:
    """The artifact folder of a study that runs trials; made if the study is new.

    Args:
        study: a study with an objective of this configuration.
        config: names the folder of a study that has no name of its own.
        artifacts: the folder that holds the study's own; the one that the study names, or the default, if None.
        adopt_it: see :func:`adopt`.

    Raises:
        ArtifactFolderError: it is not there, cannot be written, or belongs to another study.
    """
    place = place_of(study, artifacts)
    if place is None:
        root = (artifacts or _default_artifacts(study)).resolve()
        if queries.base_of(study) is None:
            name = config.name if study.study_name.startswith(UNNAMED) else _as_folder_name(study.study_name)
            return new_place(study, root, name).folder
        place = StudyPlace(study, root, config.name)  # an earlier version stored nothing of it
    if adopt_it:
        adopt(place)
    else:
        require_own(place, "bring it back, or pass its place as `artifacts`")
        place.settle()
    return place.folder


def require_own(place: StudyPlace, cure: str) -> None:
    """Makes sure that a study has its folder, and that it is the study's own.

    Args:
        place: the study's place.
        cure: advice for the case that the folder is not there.

    Raises:
        ArtifactFolderError: it is not.
    """
    standing = place.standing()
    if standing is Standing.ABSENT:
        raise ArtifactFolderError(f"{place.folder}: the study's artifact folder is not there; {cure}")
    if not standing.is_own:
        raise ArtifactFolderError(place.explain())


def adopt(place: StudyPlace) -> None:
    """Gives a study a folder of its own: the one at its place, or a copy of the one that it has shared so far.

    Raises:
        ArtifactFolderError: the folder at its place belongs to a study that is there, or there is none and nothing to
            copy.
    """
    if place.standing().is_own:
        place.settle()
        return
    if place.folder.is_dir():
        if place.used_by_a_living_study():
            raise ArtifactFolderError(place.explain())
        check_writable(place.folder)
    else:
        shared = place_of(place.study)
        if shared is not None:
            fetch_tree(shared.folder)
        if shared is None or not shared.may_be_copied():
            raise ArtifactFolderError(
                f"{place.folder}: there is no artifact folder to adopt; bring it back, name it with --artifacts, or "
                "pass --rebuild to make the base model again"
            )
        _copy(shared.folder, place.folder)
    place.claim()


def _copy(source: Path, target: Path) -> None:
    """Copies an artifact folder, so that the copy is there as a whole or not at all."""
    ensure_writable(target.parent)
    partial = target.parent / partial_name()
    try:
        with CheckpointStore(source / CHECKPOINTS).lock():  # nothing is collected meanwhile
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns(".*", CLAIM))
        partial.rename(target)
        send_tree(target)
    except OSError as error:
        raise ArtifactFolderError(f"{target}: the artifact folder cannot be copied there: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _default_artifacts(study: optuna.Study) -> Path:
    database = database_of(study)
    return artifact_folder(parse_url("sqlite://" if database is None else database.url))


def _as_folder_name(name: str) -> str:
    """A study's name, which may be anything, with what cannot be in a folder's name replaced."""
    allowed = "".join(letter if letter.isalnum() or letter in "-_.+ " else "_" for letter in name[:100])
    return "_" + allowed[1:] if allowed[0] == "." else allowed.strip() or "_"
