"""Checkpoints: what a trial leaves behind for its children and for export.

A checkpoint is one safetensors file that holds a candidate's fp32 weights and, as metadata, its architecture. Its name
is the SHA-256 of its content, so that equal weights (a child that only changes the precision) are stored once, and
damage is seen when it is read. Files are written under a temporary name and renamed: a reader never sees half of one.
The temporary name says who writes, so that what a killed process left behind can be told from what is being written.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nasopt.errors import ArtifactFolderError
from nasopt.host.identity import is_gone, worker_identity

if TYPE_CHECKING:
    pass


PARTIAL_SECONDS = 24 * 3600
"""A temporary file of another host this old was left behind: there is no telling whether its writer lives."""

_PARTIAL = re.compile(r"\.tmp-(?P<pid>\d+)-(?P<started>[\d.]+)-(?P<host>.+)-[0-9a-f]{8}")


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
    partial = path.with_name(partial_name())
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_name() -> str:
    """A new name for a file that this process is writing."""
    worker = worker_identity()
    place = re.sub(r"[^\w.-]", "_", str(worker["host"]))
    return f".tmp-{worker['pid']}-{worker['started']:.2f}-{place}-{secrets.token_hex(4)}"


def remove_partial_files(folder: Path) -> None:
    """Removes what writers that were killed left behind, in the folder and below; what is being written stays."""
    for path in folder.rglob(".tmp-*"):
        writer = _PARTIAL.fullmatch(path.name)
        try:
            old = time.time() - path.stat().st_mtime > PARTIAL_SECONDS
            if old or (writer is not None and is_gone({**writer.groupdict(), "pid": int(writer["pid"])})):
                path.unlink()
        except FileNotFoundError:
            continue  # its writer has renamed it, or another worker removed it
