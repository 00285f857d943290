"""The database: URLs, engine options, heartbeats, and one-line errors where something goes wrong with them."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from nasopt.errors import MachineError, StorageError
from nasopt.storage.outages import GRACE_SECONDS, HEARTBEAT_SECONDS, Patience, Storage, first_line
from nasopt.storage.sqlite import SQLITE_TIMEOUT_SECONDS, connect_for_reading

DEFAULT_URL = "sqlite:///nasopt.db"
CONNECT_TIMEOUT_SECONDS = 10
"""The wait for a server that does not answer; its driver would wait for minutes."""

DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
"""The drivers that the extras install, for URLs that name none; SQLAlchemy would choose others. MariaDB goes by
the name of MySQL, which SQLAlchemy tells it from by itself."""
SECRETS = re.compile("pass(?!file)|pwd|secret|token|odbc_connect", re.IGNORECASE)
"""The keys of a URL's query that no message shows contain one of these."""
EXTRAS = {"postgresql": "postgres", "mysql": "mysql"}

TABLE_LOCKS = {"postgresql": "SELECT pg_advisory_lock(1851879280)", "mysql": "SELECT GET_LOCK('nasopt', 60)"}
"""Statements that take the lock under which the tables of a new database are made; no other program uses its number."""

StaleTrialCallback = Callable[["optuna.Study", "optuna.trial.FrozenTrial"], None]

logger = logging.getLogger("nasopt")


def resolve_url(option: str | None) -> str:
    """The URL that `--storage` gives, else `$NASOPT_STORAGE`, else `sqlite:///nasopt.db` in the current folder.

    Either may be ``@FILE``: the first line of that file is the URL, so that no password is in the list of processes.

    Raises:
        StorageError: the file cannot be read.
    """
    url = option or os.environ.get("NASOPT_STORAGE") or DEFAULT_URL
    if not url.startswith("@"):
        return url
    try:
        lines = Path(url[1:]).expanduser().read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StorageError(f"--storage {url}: the file cannot be read ({reason})") from None
    if not lines:
        raise StorageError(f"--storage {url}: the file is empty; its first line is to be a database URL")
    return lines[0]


def parse_url(url: str) -> URL:
    """The parsed URL, with the path of an SQLite file made absolute, and a driver that is installed.

    Raises:
        StorageError: it is not a database URL, or its password cannot be told from what follows.
    """
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # NOTE: the text is not repeated, because it may hold a password.
        raise StorageError(
            "--storage is not a database URL: write for example sqlite:///nasopt.db or "
            "postgresql://user:password@host:5432/database (special characters in a password as %40 and the like)"
        ) from None
    if parsed.get_backend_name() != "sqlite" and url.count("@") > 1:
        # NOTE: the text after the first @ would be taken for the host, and shown.
        raise StorageError(
            "--storage: the URL has several @, so that user, password and host cannot be told apart: "
            "write the @ of a password as %40 (and : / ? # as %3A %2F %3F %23)"
        )
    ours = DRIVERS.get(parsed.drivername)
    if ours is not None and importlib.util.find_spec(ours.partition("+")[2]) is not None:
        parsed = parsed.set(drivername=ours)
    if (path := sqlite_path(parsed)) is not None:
        return parsed.set(database=str(path.resolve()))
    return parsed


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL; None for other databases and for one in memory."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def artifact_folder(url: URL) -> Path:
    """The default folder of studies' files: beside an SQLite file, else in the current folder."""
    path = sqlite_path(url)
    return Path(f"{path}.artifacts") if path is not None else Path("nasopt-artifacts").resolve()


def holds_password(url: URL) -> bool:
    """Whether a URL holds a password, in its place or in its query."""
    return url.password is not None or bool(_secret_keys(url))


def shown(url: URL) -> str:
    """The URL without its password, for messages."""
    return url.difference_update_query(_secret_keys(url)).render_as_string(hide_password=True)


def _secret_keys(url: URL) -> list[str]:
    return [key for key in url.query if SECRETS.search(key)]


def open_storage(
    url: URL,
    *,
    read_only: bool = False,
    must_exist: bool = False,
    stale_trial_callback: StaleTrialCallback | None = None,
    patience: Patience | None = None,
) -> RDBStorage:
    """Opens the database.

    For writing, SQLite gets WAL, `BEGIN IMMEDIATE` and a busy timeout, and a database that cannot be written is refused
    at once. For reading, nothing is made or changed in the database or beside it, and neither need be writable.

    Args:
        url: the database, as :func:`parse_url` gives it.
        read_only: refuse every change. The database must exist.
        must_exist: refuse to make a database where there is none.
        stale_trial_callback: see :class:`optuna.storages.RDBStorage`.
        patience: the wait for a server that goes away once it is open; none if None, and for a file.

    Raises:
        StorageError: it cannot be reached (or written), its driver is missing, or it is somebody else's database.
    """
    path = sqlite_path(url)
    if path is not None:
        _check_file(url, path, must_exist or read_only)
    patience = (patience if path is None else None) or Patience()

    def open_it() -> Storage:
        return _open(url, path, read_only, stale_trial_callback)

    try:
        storage = patience.call(open_it, shown(url)) if patience.at_opening else open_it()
        storage.patience, storage.shown = patience, shown(url)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        extra = EXTRAS.get(url.get_backend_name())
        cure = f"; pip install 'nasopt[{extra}]'" if extra else ""
        raise StorageError(f"{shown(url)}: its database driver is not installed: {first_line(error)}{cure}") from None
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise StorageError(f"{shown(url)}: the database cannot be opened: {first_line(error)}") from None
    return storage


def _open(url: URL, path: Path | None, read_only: bool, stale_trial_callback: StaleTrialCallback | None) -> Storage:
    arguments = _reading_arguments(url) if read_only else _engine_arguments(url)
    with ExitStack() as stack:
        if not read_only and not _has_all_tables(url, path, arguments):
            stack.enter_context(_alone(url, path, arguments))
        is_empty = _refuse_foreign_database(url, arguments)
        if read_only and is_empty:
            raise StorageError(f"{shown(url)}: the database is empty; `nasopt study create` makes a study in it")
        storage = Storage(
            url.render_as_string(hide_password=False),
            engine_kwargs=arguments,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=stale_trial_callback,
            skip_table_creation=read_only,
        )
    if not read_only:
        if path is not None:
            _make_concurrent(storage.engine)
        _try_to_write(storage.engine)
    return storage


def _check_file(url: URL, path: Path, must_exist: bool) -> None:
    if must_exist and not path.is_file():
        raise StorageError(f"{shown(url)}: no such database; `nasopt study create` makes one, or pass --storage")
    if not path.parent.is_dir():
        raise StorageError(f"{shown(url)}: the folder {path.parent} does not exist; create it first")


@contextmanager
def explaining_failures(url: URL) -> Iterator[None]:
    """Turns an error of a database that was already open (its server ends, its disk is full) into one line.

    Raises:
        MachineError: the database failed.
        KeyboardInterrupt: the process was asked to end while it waited for the database.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, UnboundLocalError, AssertionError) as caught:
        error: BaseException | None = caught
        while isinstance(error, (UnboundLocalError, AssertionError)):
            error = error.__context__  # NOTE: Optuna's clean-up raises them when it cannot read or write the trial
        if isinstance(error, KeyboardInterrupt):
            raise error from None
        if not isinstance(error, (sqlalchemy.exc.SQLAlchemyError, StorageInternalError)):
            raise
        logger.debug("%s", shown(url), exc_info=True)
        raise MachineError(
            f"{shown(url)}: the database failed: {first_line(error)}; once it is back, "
            "`nasopt study optimize` goes on where this stopped"
        ) from None


def _engine_arguments(url: URL) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}} if sqlite_path(url) is not None else {}
    if backend not in EXTRAS:
        return {}
    # A connection that broke while a trial was trained is replaced instead of failing the trial.
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if "connect_timeout" not in url.query:
        arguments["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    return arguments


def _reading_arguments(url: URL) -> dict[str, Any]:
    """Engine options that make the database itself refuse changes."""
    path = sqlite_path(url)
    if path is not None:
        # Without a pool: the files that SQLite keeps beside an open database go with each connection.
        return {"creator": lambda: connect_for_reading(path), "poolclass": NullPool}
    arguments = _engine_arguments(url)
    if url.get_backend_name() == "postgresql":
        arguments["execution_options"] = {"postgresql_readonly": True}
    return arguments


def _has_all_tables(url: URL, path: Path | None, arguments: dict[str, Any]) -> bool:
    """Whether Optuna has nothing left to make in the database; it writes its version last."""
    if path is not None and not path.exists():
        return False
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        if not sqlalchemy.inspect(engine).has_table("alembic_version"):
            return False
        with engine.connect() as connection:
            return connection.exec_driver_sql("SELECT 1 FROM alembic_version").first() is not None
    finally:
        engine.dispose()


@contextmanager
def _alone(url: URL, path: Path | None, arguments: dict[str, Any]) -> Iterator[None]:
    """A lock for making the tables of a new database: processes that made them at once would trip over each other's."""
    if path is not None:
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        with lock:
            yield
            # A process that waited for the lock, or makes its file anew, finds the tables there.
            Path(lock.lock_file).unlink(missing_ok=True)
        return
    statement = TABLE_LOCKS.get(url.get_backend_name())
    if statement is None:
        yield
        return
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        with engine.connect() as connection:  # the lock ends with the connection
            connection.exec_driver_sql(statement)
            yield
    finally:
        engine.dispose()


def _refuse_foreign_database(url: URL, arguments: dict[str, Any]) -> bool:
    """Looks into the database before Optuna does, which would create its tables inside anybody's.

    Returns:
        Whether the database holds no table.

    Raises:
        StorageError: it holds tables of another program.
    """
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        tables = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if tables and "studies" not in tables:
        raise StorageError(
            f"{shown(url)}: not a study database (it holds {', '.join(sorted(tables)[:5])}); name another one"
        )
    return not tables


def _make_concurrent(engine: sqlalchemy.Engine) -> None:
    """Sets WAL and immediate transactions: popping a waiting trial is then atomic, and 20x faster than by default."""

    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy, not sqlite3, begins transactions
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    def on_begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    engine.dispose()  # closes the connections that RDBStorage opened before the listeners were there


def _try_to_write(engine: sqlalchemy.Engine) -> None:
    """Tries an update that changes no row, which a database that cannot be written refuses."""
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET study_name = study_name WHERE 1 = 0")
