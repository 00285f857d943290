"""Checks of folders, and writing of files so that a reader never sees half of one.

Files are written under a temporary name and renamed. The temporary name says which process writes, so that the files
that a killed process left can be told from those that are being written. Libraries write under temporary names of their
own beside the file (safetensors: `.tmpXXXXXX`), so they are given a folder with such a name to write in.

The umask of the process that wrote a file decides who may read it, whichever library did the writing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasopt.errors import ArtifactFolderError, MachineError
from nasopt.host.identity import is_gone, worker_identity
from nasopt.host.locks import Lock
from nasopt.host.object_store import send

PARTIAL_SECONDS = 24 * 3600
"""A temporary file of another host that is this old counts as left behind: whether its writer lives is not known."""

SCRATCH_PREFIX = "nasopt"
"""Prefix of our folders in the system's place for temporary files."""

_PARTIAL = re.compile(r"(?:nasopt)?\.tmp-(?P<pid>\d+)-(?P<started>[\d.]+)-(?P<host>.+)-[0-9a-f]{8}")


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


def check_room(folder: Path, size: int) -> None:
    """Makes sure, before hours are spent on a file of `size` bytes, that there is room for it.

    Raises:
        MachineError: the folder's disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise MachineError(
            f"{folder}: {size / 1e6:.1f} MB are needed for the weights of the base model, but the disk has "
            f"{free / 1e6:.1f} MB left; make room, or choose another folder with --artifacts"
        )


def _unwritable(folder: Path, error: OSError) -> ArtifactFolderError:
    return ArtifactFolderError(
        f"{folder}: the artifact folder cannot be written ({error.strerror}); choose another with --artifacts"
    )


def lock_in(folder: Path, name: str) -> Lock:
    """A lock on a file in a study's artifact folder; it holds across machines, too (:mod:`nasopt.host.locks`).

    Raises:
        MachineError: the folder is not there. Taking the lock would make it anew, and empty.
    """
    if not is_there(folder):
        raise MachineError(gone_words(folder))
    return Lock(folder / name)


def is_there(folder: Path) -> bool:
    """Whether a study's artifact folder is there.

    One with nothing but hidden files is not: a folder that goes while a lock in it is taken is made anew by the lock.
    """
    try:
        return any(not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return False


def gone_words(folder: Path) -> str:
    """The message about a study whose files are gone."""
    return (
        f"{folder}: the study's artifact folder is gone, or has lost the base model's weights; bring it back, or pass "
        "--rebuild to make the base model again"
    )


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a small text file so that a reader sees the old content or the new, never half of it.

    Args:
        path: the file.
        text: its content.
        private: whether only this user may read it (mode 0600).
    """
    partial = path.with_name(partial_name())
    try:
        if private:
            partial.touch(mode=0o600, exist_ok=False)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
        send(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """A new folder to write files in, removed when the block ends; :func:`publish` takes files out of it.

    Args:
        parent: a folder on the disk where the files are to stay.
    """
    folder = parent / partial_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(file: Path, path: Path) -> None:
    """Puts a finished file of a :func:`working_folder` in its place, with the access that the umask gives.

    A file of a study whose artifacts lie in an object store goes there, too (:mod:`nasopt.host.object_store`).
    """
    follow_umask(file)
    file.replace(path)
    send(path)


def follow_umask(file: Path) -> None:
    """Gives a file of a :func:`working_folder` the access by the umask; some libraries let only this user read it."""
    # NOTE: the umask itself can only be asked for by changing it; the folder was made under it a moment ago.
    file.chmod(file.parent.stat().st_mode & 0o666)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the system's place for temporary files, for this user alone and removed when the block ends.

    Folders that killed processes of this host left behind go first.
    """
    place = Path(tempfile.gettempdir())
    remove_abandoned(place, SCRATCH_PREFIX)
    folder = place / f"{SCRATCH_PREFIX}{partial_name()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def checksum_file(file: Path) -> Path:
    """The file with the checksum of a file whose format has no room for one."""
    return file.with_name(f"{file.name}.sha256")


def write_checksum(file: Path) -> None:
    """Writes a file's checksum, which :func:`checksum_matches` compares."""
    write_atomically(checksum_file(file), _sha256(file))


def checksum_matches(file: Path) -> bool:
    """Whether a file has the content that :func:`write_checksum` saw; if not, removes the checksum."""
    place = checksum_file(file)
    matches = place.is_file() and place.read_bytes() == _sha256(file).encode()
    if not matches:
        place.unlink(missing_ok=True)
    return matches


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def partial_name() -> str:
    """A new name for a file that this process is writing."""
    worker = worker_identity()
    place = re.sub(r"[^\w.-]", "_", str(worker["host"]))
    return f".tmp-{worker['pid']}-{worker['started']:.2f}-{place}-{secrets.token_hex(4)}"


def remove_partial_files(folder: Path) -> None:
    """Removes files that killed writers left in an artifact folder and below; files that are being written stay.

    Files with another kind of temporary name (safetensors' own), or with another host's, go when they are a day old.
    """
    for path in list(folder.rglob(".tmp*")):
        try:
            if _is_abandoned(path) or time.time() - path.lstat().st_mtime > PARTIAL_SECONDS:
                _remove(path)
        except FileNotFoundError:
            continue  # its writer has renamed it, or another worker removed it


def remove_abandoned(place: Path, prefix: str = "") -> None:
    """Removes files that killed processes of this host left in a shared folder, as far as we may remove them.

    Args:
        place: the folder; its subfolders are not searched.
        prefix: the text before the temporary names.
    """
    for path in place.glob(f"{prefix}.tmp-*"):
        try:
            if _is_abandoned(path):
                _remove(path)
        except OSError:
            continue  # another process was faster, or the folder cannot be written


def _is_abandoned(path: Path) -> bool:
    writer = _PARTIAL.fullmatch(path.name)
    return writer is not None and is_gone({**writer.groupdict(), "pid": int(writer["pid"])})


def _remove(path: Path) -> None:
    # NOTE: links are removed, never followed; a shared folder may hold hostile ones.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
