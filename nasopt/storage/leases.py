"""Leases in a study's database: one process on all machines holds one, for as long as its heart beats.

A lease is a row of a table of our own. Its primary key makes it exclusive: of two processes that insert it, the
database refuses one. The holder renews the time in it; a row whose time has stood still for the grace period, or whose
holder has surely ended (on this machine that is known), is taken over by an update that succeeds only for the first.
All times are the database's, so that clocks of machines need not agree.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from typing import Any

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import Column, Double, Integer, MetaData, String, Table, Text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from nasopt.host.identity import is_gone, worker_identity
from nasopt.host.pausing import stand_by
from nasopt.storage.rdb import sqlite_path

HEARTBEAT_SECONDS = 20.0
GRACE_SECONDS = 120.0
"""A holder that has not renewed its lease for this long counts as dead; as with running trials."""
PATIENCE_SECONDS = 5.0
"""A wait that is longer says for whom."""
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.02, 1.0

CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(extract(epoch from clock_timestamp()) AS double precision)",
    "mysql": "UNIX_TIMESTAMP(NOW(3))",
}
"""The database's own time, in seconds."""

LEASES = Table(
    "nasopt_leases",
    MetaData(),
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("name", String(200), primary_key=True),
    Column("token", String(32), nullable=False),
    Column("holder", Text, nullable=False),
    Column("beat", Double, nullable=False),
)

logger = logging.getLogger("nasopt")


class DatabaseLeases:
    """The leases of one study.

    Args:
        engine: of the study's database; see :func:`leases_in`.
        study: the study's number there.
    """

    def __init__(self, engine: sqlalchemy.Engine, study: int) -> None:
        self._engine, self._study = engine, study

    def __call__(self, name: str) -> DatabaseLease:
        """The lease of that name, which need not exist."""
        return DatabaseLease(self._engine, self._study, name)


def leases_in(database: RDBStorage | None, study: int) -> DatabaseLeases | None:
    """The leases of a study; None where its database cannot keep any.

    Args:
        database: the study's, opened for writing; None if it lies in none, or behind a proxy.
        study: its number there.
    """
    if database is None:
        return None
    engine = database.engine
    in_memory = engine.dialect.name == "sqlite" and sqlite_path(engine.url) is None
    if engine.dialect.name not in CLOCKS or in_memory:
        return None
    try:
        if not sqlalchemy.inspect(engine).has_table(LEASES.name):
            LEASES.create(engine)
    except SQLAlchemyError as error:
        if not sqlalchemy.inspect(engine).has_table(LEASES.name):  # else another process was quicker
            logger.warning(
                "the table %s cannot be made in the database (%s): workers on other machines are not waited for",
                LEASES.name,
                str(error).splitlines()[0],
            )
            return None
    return DatabaseLeases(engine, study)


class DatabaseLease:
    """One lease; see :class:`nasopt.host.locks.Lease`."""

    def __init__(self, engine: sqlalchemy.Engine, study: int, name: str) -> None:
        self._engine, self._name = engine, name
        self._row = (LEASES.c.study == study) & (LEASES.c.name == name)
        self._key = {"study": study, "name": name}
        self._now: sqlalchemy.ColumnElement[float] = sqlalchemy.literal_column(CLOCKS[engine.dialect.name], Double())
        self._token: str | None = None
        self._lost = threading.Event()
        self._released = threading.Event()

    @property
    def is_lost(self) -> bool:
        """Whether another process has it now, because this one did not renew it in time."""
        if self._token is not None and not self._lost.is_set():
            self._renew()
        return self._lost.is_set()

    def acquire(self) -> None:
        """Waits for the lease; says for whom when that takes long.

        Raises:
            KeyboardInterrupt: the process was asked to end while it waited.
            sqlalchemy.exc.SQLAlchemyError: the database failed.
        """
        token, began, told, pause = secrets.token_hex(16), time.monotonic(), False, _FIRST_LOOK_SECONDS
        while (holder := self._take(token)) is not None:
            stand_by()
            if not told and time.monotonic() - began >= PATIENCE_SECONDS:
                logger.warning("waiting for what another worker makes for all (%s): %s", self._name, _words(holder))
                told = True
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_LOOK_SECONDS)
        self._token = token
        self._lost.clear()
        self._released = threading.Event()
        threading.Thread(target=self._beat, args=(self._released,), name="nasopt-lease", daemon=True).start()

    def release(self) -> None:
        """Gives it back. If the database fails just now, the lease ends with the grace period."""
        token, self._token = self._token, None
        if token is None:
            return
        self._released.set()
        try:
            with self._engine.begin() as connection:
                connection.execute(sqlalchemy.delete(LEASES).where(self._row, LEASES.c.token == token))
        except SQLAlchemyError:
            logger.debug("the lease %s could not be given back", self._name, exc_info=True)

    def _take(self, token: str) -> dict[str, Any] | None:
        """Tries once; the present holder if it is another, None if it is this process now."""
        mine = {"token": token, "holder": json.dumps(worker_identity()), "beat": self._now}
        try:
            with self._engine.begin() as connection:
                question = sqlalchemy.select(LEASES, (self._now - LEASES.c.beat).label("age")).where(self._row)
                found = connection.execute(question).one_or_none()
                if found is None:
                    connection.execute(sqlalchemy.insert(LEASES).values(**self._key, **mine))
                    return None
                holder: dict[str, Any] = json.loads(found.holder)
                if found.age <= GRACE_SECONDS and not is_gone(holder):
                    return holder
                unchanged = (LEASES.c.token == found.token) & (LEASES.c.beat == found.beat)
                taken = connection.execute(sqlalchemy.update(LEASES).where(self._row, unchanged).values(**mine))
                return None if taken.rowcount == 1 else holder
        except IntegrityError:
            return {}  # another process inserted it at the same moment

    def _beat(self, released: threading.Event) -> None:
        while not released.wait(HEARTBEAT_SECONDS):
            self._renew()
            if self._lost.is_set():
                return

    def _renew(self) -> None:
        token = self._token
        if token is None:
            return
        try:
            with self._engine.begin() as connection:
                renewed = connection.execute(
                    sqlalchemy.update(LEASES).where(self._row, LEASES.c.token == token).values(beat=self._now)
                )
        except SQLAlchemyError:
            logger.debug("the lease %s could not be renewed", self._name, exc_info=True)
            return
        if renewed.rowcount != 1 and self._token == token:
            self._lost.set()
            logger.warning("this process stood still: another has taken over what it was making (%s)", self._name)


def _words(holder: dict[str, Any]) -> str:
    if not holder:
        return "it has just begun"
    words = f"process {holder.get('pid')} on {holder.get('host')} has it"
    return "".join(letter for letter in words if letter.isprintable())
