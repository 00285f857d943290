"""Checkpoints: the weights that a trial leaves behind for its children and for export.

A checkpoint is one safetensors file that holds a candidate's fp32 weights and, as metadata, its architecture. Its name
is the SHA-256 of its content, so that equal weights (a child that only changes the precision) are stored once, and
damage is seen when it is read. Files are written in a folder with a temporary name and renamed: a reader never sees
half of one (:mod:`nasopt.host.files`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.reading import read_architecture
from nasopt.errors import CheckpointError
from nasopt.host.files import ensure_writable, lock_in, publish, working_folder
from nasopt.host.object_store import fetch, is_stored, names, refresh, remove

if TYPE_CHECKING:
    from torch import Tensor

    from nasopt.host.locks import Lock


FOLDER = "checkpoints"
"""Folder of the trials' checkpoints, inside the study's own."""
SUFFIX = ".safetensors"
KEY = re.compile(r"[0-9a-f]{64}")
"""The form of a key. Keys come from the database too, where anything may stand: no other text becomes a path."""

ARCHITECTURE_KEY = "architecture"
"""The key of the architecture in a file's metadata."""


class CheckpointStore:
    """The checkpoints of one study, in one folder, which need not exist until the first one is written.

    Args:
        folder: a folder for these checkpoints alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: set[str] = set()
        self._is_writable = False

    def make_writable(self) -> None:
        """Makes the folder if need be, as the first :meth:`write` does, for a writer that must not fail late.

        Raises:
            ArtifactFolderError: the folder cannot be made or written.
        """
        ensure_writable(self.folder)
        self._is_writable = True

    def lock(self) -> Lock:
        """The lock held while a checkpoint is published, and from the decision which ones go until they are gone.

        Raises:
            MachineError: the study's folder is gone.
        """
        return lock_in(self.folder.parent, f".{self.folder.name}.lock")

    def write(
        self,
        weights: Mapping[str, Tensor],
        architecture: CandidateArchitecture,
        announce: Callable[[str], None] = lambda key: None,
    ) -> str:
        """Stores fp32 weights and returns the key under which they are found again.

        Args:
            weights: a state dict; tensors may share storage (it is written once for each name).
            architecture: the architecture that the weights belong to. Its precision is not part of the content.
            announce: told the key before the checkpoint is there. A caller that records which trial needs it there
                leaves no checkpoint behind that nobody knows, and collection spares it.

        Raises:
            ArtifactFolderError: the folder cannot be made or written.
        """
        from safetensors.torch import save_file

        if not self._is_writable:
            self.make_writable()
        metadata = {ARCHITECTURE_KEY: architecture.with_precision("fp32").to_json()}
        with working_folder(self.folder) as folder:
            file = folder / "weights"
            save_file({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, file, metadata)
            key = _sha256(file)
            with self.lock():
                announce(key)
                publish(file, self._path(key))
        self._damaged.discard(key)
        return key

    def read(self, key: str) -> tuple[dict[str, Tensor], CandidateArchitecture]:
        """The weights and the architecture of a checkpoint.

        Raises:
            CheckpointError: there is no such checkpoint, or its content is not what was written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._existing(key)
        if _sha256(path) != key and not (refresh(path) and _sha256(path) == key):
            self._damaged.add(key)
            raise CheckpointError(f"{path}: the checkpoint is damaged (its checksum does not match)")
        architecture = self.architecture(key)
        try:
            return load_file(path), architecture
        except SafetensorError:  # its name is its checksum, but what it holds are no tensors
            raise CheckpointError(f"{path}: the checkpoint is damaged (it holds no tensors)") from None

    def architecture(self, key: str) -> CandidateArchitecture:
        """The architecture of a checkpoint, without its weights.

        Raises:
            CheckpointError: there is no such checkpoint, or it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        path = self._existing(key)
        try:
            with safe_open(path, framework="np") as file:
                return read_architecture(file.metadata()[ARCHITECTURE_KEY])
        except (SafetensorError, KeyError, TypeError, JSONDecodeError):
            raise CheckpointError(f"{path}: the checkpoint is damaged (it has no readable heading)") from None

    def __contains__(self, key: object) -> bool:
        """Whether the checkpoint is there and, as far as this process has seen, whole."""
        return _is_key(key) and key not in self._damaged and is_stored(self._path(key))

    def keys(self) -> set[str]:
        """The keys of all checkpoints that are there."""
        found = {name.removesuffix(SUFFIX) for name in names(self.folder) if name.endswith(SUFFIX)}
        return {key for key in found if _is_key(key)}

    def collect(self, candidates: Iterable[str], keep: set[str]) -> int:
        """Deletes the `candidates` that are not in `keep`, and returns how many went.

        Call it while holding :meth:`lock`, with `candidates` and `keep` found out under the same lock.
        """
        dropped = (set(candidates) & self.keys()) - keep
        for key in dropped:
            remove(self._path(key))
        return len(dropped)

    def _existing(self, key: str) -> Path:
        if not _is_key(key):
            raise CheckpointError(f"{self.folder}: {key!r} is not the name of a checkpoint")
        path = self._path(key)
        if not fetch(path):
            raise CheckpointError(f"{path}: the checkpoint is not there")
        return path

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"


def _is_key(key: object) -> TypeGuard[str]:
    return isinstance(key, str) and KEY.fullmatch(key) is not None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
