"""Folders that can be written, and files that a reader never sees half of.

Files are written under a temporary name and renamed. The temporary name says which process writes, so that the files
that a killed one left behind can be told from those that are being written.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from nasopt.errors import ArtifactFolderError
from nasopt.host.identity import is_gone, worker_identity

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
    except OSError as error:
        raise _unwritable(folder, error) from None
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Makes sure that files can be written in a folder that exists.

    Raises:
        ArtifactFolderError: they cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> ArtifactFolderError:
    return ArtifactFolderError(
        f"{folder}: the artifact folder cannot be written ({error.strerror}); choose another with --artifacts"
    )


def lock_in(folder: Path, name: str) -> FileLock:
    """A lock in a folder that is there; to be taken with `with`.

    Raises:
        ArtifactFolderError: the folder is not there: taking a lock would make it again, empty.
    """
    if not folder.is_dir():
        raise ArtifactFolderError(f"{folder}: the artifact folder is not there any more; bring it back")
    return FileLock(folder / name)


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a small text file so that a reader sees the old content or the new, never half of it.

    Args:
        path: the file.
        text: its content.
        private: nobody but this user may read it (mode 0600).
    """
    partial = path.with_name(partial_name())
    try:
        if private:
            partial.touch(mode=0o600, exist_ok=False)
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
