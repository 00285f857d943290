"""Checkpoints: what a trial leaves behind for its children and for export.

A checkpoint is one safetensors file that holds a candidate's fp32 weights and, as metadata, its architecture. Its name
is the SHA-256 of its content, so that equal weights (a child that only changes the precision) are stored once, and
damage is seen when it is read. Files are written under a temporary name and renamed: a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nasopt.errors import ArtifactFolderError, CheckpointError
from nasopt.models.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
ARCHITECTURE_KEY = "architecture"


class CheckpointStore:
    """The checkpoints of one study, in one folder.

    Raises:
        ArtifactFolderError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ensure_writable(folder)

    def write(self, weights: Mapping[str, Tensor], architecture: Architecture) -> str:
        """Stores fp32 weights and returns the key under which they are found again.

        Args:
            weights: a state dict; tensors may share storage (it is written once for each name).
            architecture: what the weights are the weights of. Its precision is not part of the content.
        """
        from safetensors.torch import save_file

        metadata = {ARCHITECTURE_KEY: architecture.with_precision("fp32").to_json()}
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".tmp-", delete=False) as temporary:
            partial = Path(temporary.name)
        try:
            save_file({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, partial, metadata)
            key = _sha256(partial)
            partial.replace(self._path(key))
        finally:
            partial.unlink(missing_ok=True)
        return key

    def read(self, key: str) -> tuple[dict[str, Tensor], Architecture]:
        """The weights and the architecture of a checkpoint.

        Raises:
            CheckpointError: there is no such checkpoint, or its content is not what was written.
        """
        from safetensors import safe_open
        from safetensors.torch import load_file

        path = self._path(key)
        if not path.is_file():
            raise CheckpointError(f"{path}: the checkpoint is not there")
        if _sha256(path) != key:
            raise CheckpointError(f"{path}: the checkpoint is damaged (its checksum does not match)")
        with safe_open(path, framework="pt") as file:
            architecture = Architecture.from_json(file.metadata()[ARCHITECTURE_KEY])
        return load_file(path), architecture

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._path(key).is_file()

    def keys(self) -> set[str]:
        return {path.stem for path in self.folder.glob(f"*{SUFFIX}")}

    def collect(self, candidates: Iterable[str], keep: set[str]) -> int:
        """Deletes the `candidates` that are not in `keep`, and returns how many went.

        Only checkpoints of trials that the caller knows to be finished may be candidates: another worker may be
        writing one that no trial names yet.
        """
        dropped = 0
        for key in set(candidates) - keep:
            path = self._path(key)
            if path.is_file():
                path.unlink(missing_ok=True)
                dropped += 1
        return dropped

    def remove_partial_files(self) -> None:
        """Removes what writers that were killed left behind. Only while nobody writes."""
        for path in self.folder.glob(".tmp-*"):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"


def ensure_writable(folder: Path) -> None:
    """Creates the folder if need be.

    Raises:
        ArtifactFolderError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArtifactFolderError(
            f"{folder}: the artifact folder cannot be written ({error.strerror}); choose another with --artifacts"
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """Writes a small text file so that a reader sees the old content or the new, never half of it."""
    partial = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
