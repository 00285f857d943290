"""Small JSON files that belong to trials, stored as Optuna artifacts, which optuna-dashboard shows.

A study's attachments lie in a folder inside the study's own, so they go with it. There are no lists of neurons in them
(the checkpoint knows which ones it keeps): a trial's attachments are a few kB, whatever the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from nasopt.host.files import scratch_folder
from nasopt.host.object_store import fetch, names, remove, send, url_of
from nasopt.records.latency import latencies_to_json
from nasopt.records.notes import TrialView
from nasopt.storage.internals import storage_of

ATTACHMENTS = "attachments"
"""Folder of a study's attachments, inside the study's own."""
UPLOADS = ".uploads"
"""Folder of uploads in the dashboard, beside the studies' folders; no study's name begins with a dot."""


def documents(view: TrialView) -> dict[str, Any]:
    """The documents to attach to a trial, by file name; a few kB together, whatever the model."""
    counts = {"parameters": view.record.parameters, "flops": view.record.flops}
    return {
        "architecture.json": {**counts, **view.architecture.summary(view.shape)},
        "latency.json": latencies_to_json(view.latencies),
    }


def attach(trial: optuna.Trial, folder: Path, files: Mapping[str, Any]) -> None:
    """Stores JSON documents as artifacts of a running trial.

    Args:
        trial: the running trial.
        folder: the study's artifact folder, which exists.
        files: JSON documents by file name.
    """
    target = folder / ATTACHMENTS
    target.mkdir(exist_ok=True)
    store = FileSystemArtifactStore(target)
    with scratch_folder() as temporary:
        for name, document in files.items():
            file = temporary / name
            file.write_text(json.dumps(document, indent=1), encoding="utf-8")
            send(target / upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial))


def attached(study: optuna.Study, trial: optuna.trial.FrozenTrial, folder: Path, name: str) -> Any | None:
    """The JSON document of that name that was attached to a trial; None if there is none, or its file is gone.

    Args:
        study: the trial's study.
        trial: any trial of it.
        folder: the study's artifact folder, which need not exist.
        name: the document's file name.
    """
    for artifact in get_all_artifact_meta(trial, storage=storage_of(study)):
        if artifact.filename != name or not _is_id(artifact.artifact_id):  # never another path
            continue
        path = folder / ATTACHMENTS / str(UUID(artifact.artifact_id))
        if fetch(path):
            return json.loads(path.read_text(encoding="utf-8"))
    return None


class AttachmentStore:
    """An Optuna artifact store over the attachments of all studies of a database.

    Artifacts are found by their id in any study's folder. A file that a reader uploads in the dashboard lies beside
    these folders, because the store is not told which study it belongs to.

    Args:
        folders: the artifact folders, asked for at every access, because studies come and go. Uploads go to the first.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self._folders = folders

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Opens an artifact; raises `ArtifactNotFound` if its file is gone."""
        path = self._find(artifact_id)
        if path is None:
            raise ArtifactNotFound(f"{artifact_id}: no such artifact")
        return path.open("rb")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Stores an upload."""
        folder = self._folders()[0] / UPLOADS
        folder.mkdir(parents=True, exist_ok=True)
        FileSystemArtifactStore(folder).write(str(UUID(artifact_id)), content_body)
        send(folder / str(UUID(artifact_id)))

    def remove(self, artifact_id: str) -> None:
        """Deletes an artifact. It is no error if its file is gone: deleting a study must not fail because of that."""
        path = self._find(artifact_id)
        if path is not None:
            remove(path)

    def _find(self, artifact_id: str) -> Path | None:
        name = str(UUID(artifact_id))  # never a path
        for folder in self._folders():
            for study in names(folder) if url_of(folder) is not None else ():
                if any(fetch(place) for place in (folder / study / ATTACHMENTS / name, folder / UPLOADS / name)):
                    break
            for pattern in (f"*/{ATTACHMENTS}/{name}", f"{UPLOADS}/{name}"):
                for path in folder.glob(pattern):
                    return path
        return None


def remove_uploads(study: optuna.Study, folders: Sequence[Path]) -> None:
    """Deletes the files that readers uploaded for a study or its trials in the dashboard.

    Args:
        study: the study whose files go.
        folders: the artifact folders to look in.
    """
    if not any((folder / UPLOADS).is_dir() for folder in folders):
        return
    store = AttachmentStore(lambda: folders)
    storage = storage_of(study)
    owners: list[optuna.Study | optuna.trial.FrozenTrial] = [study, *study.get_trials(deepcopy=False)]
    for owner in owners:
        for artifact in get_all_artifact_meta(owner, storage=storage):
            if _is_id(artifact.artifact_id):
                store.remove(artifact.artifact_id)


def _is_id(text: str) -> bool:
    """Whether a text from the database is an artifact's id, and so no path."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True
