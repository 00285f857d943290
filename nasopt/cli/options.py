"""The parts that commands share: options, where they print, how they open a study."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nasopt.host.logs import quiet_optuna
from nasopt.host.object_store import artifacts_root
from nasopt.host.terminal import printable

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from nasopt.study.opening import OpenStudy

WIDE = 400


class Format(StrEnum):
    """The form in which records are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def _set_debug(value: bool) -> None:
    Settings.debug = Settings.debug or value


def _set_quiet(value: bool) -> None:
    Settings.quiet = Settings.quiet or value


class Settings:
    """Settings that hold for the whole run of the command."""

    debug = False
    quiet = False


Name = Annotated[str, typer.Argument(help="Name of the study.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Database URL, or @FILE that holds one; default: $NASOPT_STORAGE, else sqlite:///nasopt.db here.",
    ),
]
Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        parser=artifacts_root,
        metavar="PLACE",
        help="Where the study's files are: a folder, or the URL of an object store (s3://bucket/prefix).",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_set_quiet, help="No progress, no warnings.")]
AcceptDeviceChange = Annotated[
    bool, typer.Option("--accept-device-change", help="Go on on another device than the study's; marks the trials.")
]
TrustStudy = Annotated[
    bool,
    typer.Option("--trust-study", help="The code, and the object store, that the study names may be used from now on."),
]
DatabaseWait = Annotated[
    float,
    typer.Option(
        "--database-wait", min=0, help="Wait this many seconds for a database server that goes away meanwhile."
    ),
]
DATABASE_WAIT = 300.0
Output = Annotated[Format, typer.Option("-f", "--format", help="How to print.")]


def open_named(
    storage: str | None,
    name: str,
    artifacts: Path | None = None,
    *,
    read_only: bool = False,
    database_wait: float = 0.0,
) -> OpenStudy:
    """The study of that name.

    Args:
        storage: the option `--storage`.
        name: the study's.
        artifacts: the option `--artifacts`.
        read_only: for commands that only read; neither the database nor the files need be writable then.
        database_wait: the option `--database-wait`.
    """
    from nasopt.storage.outages import Patience
    from nasopt.study.opening import open_study

    url = database(storage)
    opened = open_study(url, name, artifacts, read_only=read_only, patience=Patience(database_wait))
    warn_of_password(storage, url)
    if read_only and opened.folder.is_dir() and not opened.place.standing().is_own:
        say(opened.place.explain())
    return opened


def open_to_run(
    storage: str | None,
    name: str,
    artifacts: Path | None,
    *,
    trust_study: bool,
    read_only: bool = False,
    database_wait: float = 0.0,
) -> OpenStudy:
    """The study of that name, for commands that run code that it may name.

    Args:
        storage: the option `--storage`.
        name: the study's.
        artifacts: the option `--artifacts`.
        trust_study: the option `--trust-study`.
        read_only: see :func:`open_named`.
        database_wait: the option `--database-wait`.

    Raises:
        UntrustedStudyError: it names code, or an object store, that nobody has trusted on this machine.
    """
    from nasopt.study import trust

    opened = open_named(storage, name, artifacts, read_only=read_only, database_wait=database_wait)
    trust.require(opened, accept=trust_study)
    return opened


def database(storage: str | None) -> URL:
    """The database that the option `--storage`, or the environment, names. For every command that opens one."""
    from nasopt.storage.rdb import parse_url, resolve_url

    quiet_optuna(Settings.debug)
    return parse_url(resolve_url(storage))


def warn_of_password(storage: str | None, url: URL) -> None:
    """Says where else a password is better kept than in `--storage`; call it once the database is open.

    Args:
        storage: the option.
        url: the URL that :func:`database` made of it.
    """
    from nasopt.storage.rdb import holds_password

    if storage is not None and not storage.startswith("@") and holds_password(url):
        say(
            "the password in --storage is in the list of processes, for everybody on this machine to read: "
            "set $NASOPT_STORAGE instead, or write the URL into a file and pass --storage @FILE"
        )


def stdout() -> Console:
    """The console for results, as wide as a table needs where nobody looks at it on a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def say(line: str) -> None:
    """A line for people, on stderr."""
    if not Settings.quiet:
        Console(stderr=True).print(printable(line), highlight=False, markup=False, soft_wrap=True)


def help_without_command(context: typer.Context) -> None:
    """The callback of a group of commands: shows its help where no command is named."""
    if context.invoked_subcommand is None:
        print(context.get_help())
