"""The command line: parse, call, print.

Results go to stdout, everything else to stderr. Exit codes: 0 success; 2 for a request that cannot be carried out as it
is, explained in one line; 1 for work that was begun and failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nasopt.cli.outside
import nasopt.cli.report  # noqa: F401  (its commands are, too)
from nasopt.cli.device import device_app
from nasopt.cli.options import (
    Artifacts,
    Debug,
    Format,
    Output,
    Quiet,
    Settings,
    Storage,
    database,
    help_without_command,
    warn_of_password,
)
from nasopt.cli.options import say as _say
from nasopt.cli.options import stdout as _stdout
from nasopt.cli.study import study_app
from nasopt.errors import NasoptError
from nasopt.host.collection import collect_rarely
from nasopt.host.logs import configure
from nasopt.host.terminal import open_missing_streams, printable
from nasopt.version import __version__

if TYPE_CHECKING:
    pass

app = typer.Typer(
    help="Search for smaller, faster versions of a trained BERT-like model.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(study_app, name="study")
app.add_typer(device_app, name="device")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"nasopt {__version__}")
        raise typer.Exit
    help_without_command(context)


@app.command("dashboard")
def dashboard(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on this machine.")] = 8080,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Open optuna-dashboard on the studies of a database, on this machine only."""
    from nasopt.report.dashboard import HOST, make_dashboard

    url = database(storage)
    server = make_dashboard(url, port, artifacts)
    warn_of_password(storage, url)
    _say(f"http://{HOST}:{port}/ (Ctrl-C ends it)")
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


@app.command("methods")
def methods(output: Output = Format.table, debug: Debug = False, quiet: Quiet = False) -> None:
    """List the methods, with what each searches."""
    from nasopt.methods.registry import available
    from nasopt.report.printing import print_records

    records = [{"name": name, "searches": method.about.searches} for name, method in available().items()]
    print_records(records, output.value, {"method": "name", "searches": "searches"}, _stdout())


def main() -> None:
    """Entry point of the console script."""
    collect_rarely()
    open_missing_streams()
    Settings.debug, Settings.quiet = "--debug" in sys.argv, "--quiet" in sys.argv
    # The interpreters of workers would else put the current folder first, and run a `queue.py` that lies there.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    configure(Settings.debug, Settings.quiet)
    sys.exit(_run(_command))


def _command() -> Any:
    """Parses and runs the command.

    NOTE: not by Typer's own entry, which takes KeyboardInterrupt for itself and ends with 130 and no word.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("nasopt", sys.argv[1:]) as context:
            result = command.invoke(context)
    except typer.Exit as end:
        result = end.exit_code
    sys.stdout.flush()  # here, where an error of writing has its one line
    return result


def _run(command: Callable[[], Any]) -> int:
    """Runs a command and turns what it raises into an exit code and one line."""
    # Typer brings click along, under one name or another: the base class of its own errors tells which.
    usage_error: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except (typer.Abort, EOFError):
        return _fail("aborted", 1)
    except usage_error as error:
        where = f" (see `{error.ctx.command_path} --help`)" if getattr(error, "ctx", None) else ""
        return _fail(error.format_message().rstrip(".") + where, 2)
    except NasoptError as error:
        return _fail(str(error), error.exit_code, error)
    except KeyboardInterrupt:
        return _fail("interrupted; what was under way is tried again next time", 1)
    except BrokenPipeError:
        _drop_stdout()
        return 1
    except Exception as error:
        if isinstance(error, OSError):
            _drop_stdout()
        hint = "" if Settings.debug else " (--debug shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}", 1, error)


def _drop_stdout() -> None:
    """Lets nothing more be written where writing failed: Python would try once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int, error: Exception | None = None) -> int:
    if Settings.debug and error is not None:
        import traceback

        traceback.print_exception(error)
    print(f"nasopt: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
