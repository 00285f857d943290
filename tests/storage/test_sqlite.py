"""An SQLite file is read where nothing can be written, and nothing is left beside it where something can."""

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest
from processes import run_code
from readers import read_only

from nasopt.storage.sqlite import connect_for_reading

pytestmark = pytest.mark.integration

READ = """
import sys
from pathlib import Path
from nasopt.errors import StorageError
from nasopt.storage.sqlite import connect_for_reading
try:
    print(connect_for_reading(Path(sys.argv[1])).execute("SELECT x FROM t").fetchall())
except StorageError as error:
    print(error)
"""


def write(path: Path, journal: str = "WAL") -> sqlite3.Connection:
    """A database of one row; closed by the caller."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    return connection


def read(path: Path) -> str:
    """The answer of a process that may not write the file or its folder, where it leaves all as it is."""
    with read_only(path.parent):
        before = {path.name: path.stat().st_size for path in path.parent.iterdir()}
        result = run_code(READ, path, cwd=path.parent, without_overrides=True)
        assert {path.name: path.stat().st_size for path in path.parent.iterdir()} == before
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("name", ["a.db", "what? 100 % of #1.db"])
def test_a_read_only_folder(tmp_path: Path, journal: str, name: str) -> None:
    write(tmp_path / name, journal).close()
    assert read(tmp_path / name) == "[(1,)]"


def test_a_read_only_folder_where_somebody_else_writes(tmp_path: Path) -> None:
    writer = write(tmp_path / "a.db")
    assert (tmp_path / "a.db-wal").stat().st_size
    assert read(tmp_path / "a.db") == "[(1,)]"
    writer.close()


def write_and_die(path: Path) -> None:
    write(path)
    os._exit(0)


def killed_writer(path: Path) -> None:
    """Leaves a database whose row is in its log alone."""
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(path,))
    process.start()
    process.join()
    assert Path(f"{path}-wal").stat().st_size


def test_the_log_of_a_killed_writer_is_read(tmp_path: Path) -> None:
    killed_writer(tmp_path / "a.db")
    assert read(tmp_path / "a.db") == "[(1,)]"


def test_a_log_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    killed_writer(tmp_path / "a.db")
    (tmp_path / "a.db-shm").unlink()
    assert "latest changes are in a.db-wal" in read(tmp_path / "a.db")


def test_nothing_is_left_beside_a_file_that_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path).close()
    before = path.stat()
    connection = connect_for_reading(path)
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("INSERT INTO t VALUES (2)")
    connection.close()
    assert list(tmp_path.iterdir()) == [path]
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer = write(tmp_path / "a.db")
    reader = connect_for_reading(tmp_path / "a.db")
    writer.execute("INSERT INTO t VALUES (2)")
    writer.commit()
    assert reader.execute("SELECT x FROM t").fetchall() == [(1,), (2,)]
    writer.close()
    reader.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
