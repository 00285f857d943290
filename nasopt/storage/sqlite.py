"""Reading an SQLite file without changing it or anything beside it, even where nothing there can be written."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from nasopt.errors import StorageError

SQLITE_TIMEOUT_SECONDS = 60


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that refuses every change.

    Where the file and its folder can be written, SQLite opens it as for writing: only such a connection may follow
    what others write and tidy up, when it closes, the two files (`-wal`, `-shm`) that it needs beside a database with
    a write-ahead log. Where they cannot, it reads the log if there is one; else it takes the file as it lies.

    Args:
        path: the database; it exists.

    Raises:
        StorageError: its latest changes are in a log that cannot be read without writing.
    """
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{_access(path)}",
        uri=True,
        timeout=SQLITE_TIMEOUT_SECONDS,
        check_same_thread=False,
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def _access(path: Path) -> str:
    """The part of the file's URI that says how to open it."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    log, index, journal = (Path(f"{path}-{kind}") for kind in ("wal", "shm", "journal"))
    if log.exists() and log.stat().st_size and not index.exists():
        raise StorageError(
            f"{path}: its latest changes are in {log.name}, which cannot be read without writing beside it; copy both "
            "files to a folder that can be written"
        )
    if (log.exists() and index.exists()) or journal.exists():
        return "mode=ro"
    # NOTE: this reads without locks. Nobody has the file open for writing, or there would be a log or a journal; a
    # process that begins to write it just now has other rights than this one, and may spoil this one connection.
    return "immutable=1"
