"""A MariaDB server in a temporary folder, from Debian's package `mariadb-server`; it listens on a socket alone."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql

START_SECONDS = 60
# A database that nobody keeps is small, and waits for no disk; but what it has committed outlives a kill (2, not 0).
SMALL = ("--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--skip-log-bin")


class CannotStartError(Exception):
    """The reason why there is no server here."""


class MariaDB:
    """A server whose files lie in `folder`; its superuser has a password."""

    password = "pass-word-7"

    def __init__(self, folder: Path) -> None:
        self._folder, self._socket = folder, folder / "socket"
        self._user = ("--user=root",) if os.geteuid() == 0 else ()
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        program = shutil.which("mariadb-install-db")
        if program is None:
            raise CannotStartError("MariaDB is not installed: apt-get install mariadb-server")
        options = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
        files = (f"--datadir={self._folder}/data", f"--tmpdir={self._folder}")
        command = [program, "--no-defaults", *files, *options, *self._user, *SMALL]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise CannotStartError(f"mariadb-install-db: {(made.stderr or made.stdout).strip().splitlines()[-1:]}")

    def start(self) -> None:
        """Starts it and waits until it answers."""
        program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise CannotStartError("mariadbd is not installed")
        files = (f"--datadir={self._folder}/data", f"--tmpdir={self._folder}", f"--socket={self._socket}")
        command = [program, "--no-defaults", *files, f"--pid-file={self._folder}/pid", "--skip-networking"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self._user, *SMALL], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise CannotStartError((self._folder / "log").read_text().strip().splitlines()[-1])
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it at once; open connections break."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def new_database(self) -> str:
        """The URL, without a driver, of a new database."""
        name = f"study{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return f"mariadb://nasopt:{self.password}@localhost/{name}?unix_socket={self._socket}"

    def set_up_user(self) -> None:
        """Makes the user of the URLs."""
        self._execute(f"CREATE USER nasopt@localhost IDENTIFIED BY '{self.password}'")
        self._execute("GRANT ALL ON *.* TO nasopt@localhost")

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def _execute(self, statement: str) -> None:
        with pymysql.connect(unix_socket=str(self._socket), user="root", autocommit=True) as connection:
            connection.cursor().execute(statement)


@contextmanager
def running_mariadb() -> Iterator[MariaDB]:
    """A server that runs until the end of the block.

    Raises:
        CannotStartError: there is none on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="nasopt-mariadb-"))
    try:
        server = MariaDB(folder)
        server.initialise()
        server.start()
        try:
            server.set_up_user()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
