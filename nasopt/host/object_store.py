"""Artifact folders whose files lie in an object store (`s3://bucket/prefix`), with a folder of this machine as cache.

Everything works on the folder of this machine. What is written there under its final name is sent to the store at once,
and what is missing there is fetched when it is read. So any machine goes on with a study that another one began. The
file :data:`MARK` in the cache says which store it belongs to; folders without one are folders and nothing else.

The store is reached through fsspec. Who may read it, and where it is, say the provider's own settings (for S3 the
variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL` or its files): no study holds them.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from nasopt.errors import ArtifactFolderError, MachineError, MissingExtraError

MARK = ".object-store"
"""The file in a cache that holds the URL of its store."""
OF_THE_MACHINE = {"data", "teacher"}
"""Folders of a study that each machine makes for itself: fetching them would take longer."""
EXTRAS = {"s3": ("s3fs", "s3")}
SCHEMES = ("s3", "gs", "az", "abfs")
"""Object stores that a study may name; fsspec knows more places, such as the files of this machine."""
_DEPTH = 4
"""The file of a study lies at most this many folders below the cache."""


@dataclass(frozen=True)
class _Remote:
    """A file or folder of a store."""

    store: Any
    path: str
    url: str


def artifacts_root(place: str | Path) -> Path:
    """The folder on this machine of a place for studies' files: itself, or the cache of an object store's URL.

    Raises:
        ArtifactFolderError: it is a URL, but not of an object store.
    """
    if isinstance(place, Path) or not is_url(place):
        return Path(place)
    url = place.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.fragment or ".." in parts.path:
        raise ArtifactFolderError(
            f"{parts.scheme}://...: not the URL of an object store: write for example s3://bucket/prefix"
        )
    if "@" in parts.netloc and parts.scheme == "s3":
        raise ArtifactFolderError("s3://...: no keys in the URL; put them where the AWS tools look for them")
    bucket, key = re.sub("[^a-zA-Z0-9-]", "-", parts.netloc), hashlib.sha256(url.encode()).hexdigest()[:12]
    root = cache_folder() / f"{bucket}-{key}"
    mark = root / MARK
    if not mark.is_file():
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = root / f"{MARK}-{secrets.token_hex(4)}"
        partial.write_text(url, encoding="utf-8")
        partial.replace(mark)
    return root


def cache_folder() -> Path:
    """The place of the caches: `$NASOPT_CACHE`, else `nasopt` in the user's folder for caches."""
    own = os.environ.get("NASOPT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasopt"


def is_url(place: str) -> bool:
    """Whether a place for studies' files is a URL rather than a path."""
    return "://" in place


def url_of(root: Path) -> str | None:
    """The URL of the store whose cache a folder is; None for a folder that is no cache."""
    try:
        return (root / MARK).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def check_store(root: Path) -> None:
    """Makes sure, before hours are spent, that a cache's store can be written; nothing is to do for other folders.

    Raises:
        MachineError: it cannot be reached or written.
        MissingExtraError: the package for such stores is not installed.
    """
    probe = root / f".probe-{secrets.token_hex(4)}"
    remote = _remote(probe)
    if remote is not None:
        with _explained(remote):
            remote.store.pipe_file(remote.path, b"nasopt")
            remote.store.rm_file(remote.path)


def send(path: Path) -> None:
    """Sends a file that has just been written to the store, if its folder is the cache of one.

    Raises:
        MachineError: the store failed.
    """
    remote = _remote(path)
    if remote is not None:
        with _explained(remote):
            remote.store.put_file(str(path), remote.path)


def fetch(path: Path) -> bool:
    """Whether a file is on this machine; brings it from the store if it is only there.

    Raises:
        MachineError: the store failed.
    """
    return path.is_file() or _download(path)


def refresh(path: Path) -> bool:
    """The same for a file that changes: its present content is fetched, and a copy of what is no more is removed."""
    if _remote(path) is None:
        return path.is_file()
    if _download(path):
        return True
    path.unlink(missing_ok=True)
    return False


def is_stored(path: Path) -> bool:
    """Whether a file is on this machine or in the store."""
    remote = None if path.is_file() else _remote(path)
    if remote is None:
        return path.is_file()
    with _explained(remote):
        return bool(remote.store.exists(remote.path))


def remove(path: Path) -> None:
    """Removes a file here and in the store; nothing happens if there is none."""
    path.unlink(missing_ok=True)
    remote = _remote(path)
    if remote is not None:
        with _explained(remote):
            if remote.store.exists(remote.path):
                remote.store.rm_file(remote.path)


def names(folder: Path) -> set[str]:
    """The names of everything in a folder, on this machine or in the store."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    remote = _remote(folder / "any")
    if remote is None:
        return found
    with _explained(remote):
        try:
            listed = remote.store.ls(remote.path.rpartition("/")[0], detail=False)
        except FileNotFoundError:
            return found
        return (found | {str(path).rstrip("/").rpartition("/")[2] for path in listed}) - {"", ".", ".."}


def fetch_tree(folder: Path) -> None:
    """Brings everything that the store has of a folder; nothing happens if it is not in a cache."""
    remote = _remote(folder / "any")
    if remote is None:
        return
    top = remote.path.rpartition("/")[0]
    with _explained(remote):
        try:
            found = remote.store.find(top)
        except FileNotFoundError:
            return
    for path in found:
        inside = PurePosixPath(str(path)[len(top) + 1 :])
        if not (inside.is_absolute() or ".." in inside.parts):  # a store may hold any names
            fetch(folder / inside)


def send_tree(folder: Path) -> None:
    """Sends everything in a folder that the store is to have; nothing happens if it is not in a cache."""
    if _remote(folder / "any") is not None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                send(path)


def remove_tree(folder: Path) -> None:
    """Removes a folder here, as far as that is possible, and in the store."""
    remote = _remote(folder / "any")
    shutil.rmtree(folder, ignore_errors=True)
    if remote is not None:
        top = remote.path.rpartition("/")[0]
        with _explained(remote):
            if remote.store.exists(top):
                remote.store.rm(top, recursive=True)


def _download(path: Path) -> bool:
    remote = _remote(path)
    if remote is None:
        return False
    partial = path.with_name(f".fetching-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _explained(remote):
            try:
                remote.store.get_file(remote.path, str(partial))
            except FileNotFoundError:
                return False
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _remote(path: Path) -> _Remote | None:
    """The place of a file in the store; None if its folder is no cache, or if each machine makes it for itself."""
    for root in list(path.parents)[:_DEPTH]:
        url = url_of(root)
        if url is not None:
            inside = path.relative_to(root)
            if OF_THE_MACHINE & set(inside.parts[1:2]):
                return None
            store, top = _opened(url)
            return _Remote(store, f"{top}/{inside.as_posix()}", url)
    return None


def _opened(url: str) -> tuple[Any, str]:
    package, extra = EXTRAS.get(urlsplit(url).scheme, ("fsspec", "s3"))
    try:
        from fsspec.core import url_to_fs

        # Without listings that are kept: other machines change them.
        store, top = url_to_fs(url, use_listings_cache=False)
    except ImportError:
        raise MissingExtraError(package, extra) from None
    return store, str(top).rstrip("/")


@contextmanager
def _explained(remote: _Remote) -> Iterator[None]:
    try:
        yield
    # NOTE: each provider's library has errors of its own, without a common base.
    except Exception as error:
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise MachineError(f"{remote.url}: the object store failed: {words}") from error
