"""The command line: parse, call, print.

Results go to stdout, everything else to stderr. Exit codes: 0 success; 2 what the user can mend, said in one line;
1 anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nasopt.cli_options import (
    AcceptDeviceChange,
    Artifacts,
    Debug,
    Format,
    Name,
    Output,
    Quiet,
    Settings,
    Storage,
)
from nasopt.cli_options import open_named as _open
from nasopt.cli_options import say as _say
from nasopt.cli_options import stdout as _stdout
from nasopt.device_cli import device_app
from nasopt.errors import NasoptError
from nasopt.process import configure, quiet_optuna
from nasopt.version import __version__

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nasopt.study import OpenStudy

app = typer.Typer(
    help="Search for smaller, faster versions of a trained BERT-like model.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
study_app = typer.Typer(help="Create, run and look at studies.", rich_markup_mode=None)
app.add_typer(study_app, name="study")
app.add_typer(device_app, name="device")


class ExportFormat(StrEnum):
    """What an exported model is for."""

    hf = "hf"
    onnx = "onnx"


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"nasopt {__version__}")
        raise typer.Exit
    _help_without_command(context)


@study_app.callback(invoke_without_command=True)
def _help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@study_app.command("create")
def create(
    study_file: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    name: Annotated[str | None, typer.Option("--name", help="Another name than the file's.")] = None,
    skip_if_exists: Annotated[bool, typer.Option("--skip-if-exists", help="Fine if an equal one is there.")] = False,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Check a study file, its data and its model, and store the study. Trains nothing."""
    from nasopt import study as studies
    from nasopt.storage.rdb import parse_url, resolve_url, shown

    quiet_optuna(Settings.debug)
    url = parse_url(resolve_url(storage))
    config = studies.read_study_file(study_file, name)
    created = studies.create(config, url, artifacts=artifacts, skip_if_exists=skip_if_exists)
    _say(f"study {config.name!r} {'created in' if created else 'is already in'} {shown(url)}")


@study_app.command("optimize")
def optimize(
    name: Name,
    n_trials: Annotated[
        int | None, typer.Option("--n-trials", min=1, help="So many more trials; default: what is left of the search.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Begin no trial after so many seconds.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; spread evenly over the GPUs.")] = 1,
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make lost artifacts again.")] = False,
    accept_device_change: AcceptDeviceChange = False,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Run trials. A second call goes on where the first stopped."""
    from nasopt import study as studies
    from nasopt.confirmation import unconfirmed
    from nasopt.execution import local
    from nasopt.execution.progress import make_view
    from nasopt.objective import make_method

    opened = studies.with_data(_open(storage, name, artifacts), data)
    studies.check_artifacts(opened, rebuild)
    budget = make_method(opened.config).budget
    count = n_trials if n_trials is not None else studies.remaining_budget(opened, budget)
    if count == 0 and not unconfirmed(opened):
        _say(f"all {budget} trials of the search are done; --n-trials N runs more")
        return
    view = make_view(Console(stderr=True), count, Settings.quiet)
    over = local.optimize(
        opened,
        view,
        n_trials=count,
        timeout=timeout,
        workers=workers,
        debug=Settings.debug,
        accept_device_change=accept_device_change,
    )
    if over is not None:
        _say(f"the search is over: {over}")


@study_app.command("list")
def list_studies(
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """List the studies of a database."""
    from nasopt import study as studies
    from nasopt.report import records as printing
    from nasopt.report import tables
    from nasopt.storage.rdb import parse_url, resolve_url

    quiet_optuna(Settings.debug)
    records = [
        tables.study_record(opened) for opened in studies.list_studies(parse_url(resolve_url(storage)), artifacts)
    ]
    columns = {"name": "name", "method": "method", "complete": "trials.COMPLETE", "pareto": "pareto"}
    columns |= {"best quality": "best.quality.value", "model": "model"}
    printing.print_records(records, output.value, columns, _stdout())


@study_app.command("show")
def show(
    name: Name,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Show a study: its state, the base model, the best values, the hypervolume."""
    from nasopt.report import records as printing
    from nasopt.report import tables
    from nasopt.report.confirmations import with_summary

    opened = _open(storage, name, artifacts)
    printing.print_record(with_summary(opened, tables.study_record(opened)), output.value, _stdout())


@study_app.command("pareto")
def pareto(
    name: Name,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Show the Pareto front, best quality first, and whether its members beat their controls."""
    from nasopt.report.controls import print_front

    for line in print_front(_open(storage, name, artifacts), output.value, _stdout()):
        _say(line)


@study_app.command("controls")
def controls(
    name: Name,
    random_masks: Annotated[
        int, typer.Option("--random-masks", min=0, help="Random masks of the depth of each Pareto member.")
    ] = 5,
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    accept_device_change: AcceptDeviceChange = False,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate what the search must beat: models that need none, made with the budgets of the Pareto front's."""
    from nasopt import study as studies
    from nasopt.controls import members_of
    from nasopt.execution import local
    from nasopt.execution.progress import make_view
    from nasopt.report.controls import print_controls

    opened = _open(storage, name, artifacts)
    members_of(opened)
    opened = studies.with_data(opened, data)
    studies.check_artifacts(opened, rebuild=False)
    view = make_view(Console(stderr=True), 0, Settings.quiet)
    local.evaluate_controls(opened, view, random_masks=random_masks, accept_device_change=accept_device_change)
    print_controls(opened, output.value, _stdout())
    _say(f"`nasopt study pareto {name}` compares the search with them")


@study_app.command("trials")
def trials(
    name: Name,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Show every trial."""
    opened = _open(storage, name, artifacts)
    _print_trials(opened, opened.study.get_trials(deepcopy=False), output)


@study_app.command("export")
def export(
    name: Name,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Number of the trial.")] = None,
    best: Annotated[
        str | None, typer.Option("--best", help='Best quality that satisfies it: "memory_mb<60 and latency_ms<=5".')
    ] = None,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="hf: a folder for from_pretrained; onnx: model.onnx in its place.")
    ] = ExportFormat.hf,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Write a trial's model, read it back and compare, and evaluate it once on the test split."""
    from nasopt import delivery
    from nasopt import study as studies

    if (trial is None) == (best is None):
        raise typer.BadParameter("name the model by --trial N or by --best CONDITION, one of them")
    opened = studies.with_data(_open(storage, name, artifacts), data)
    chosen = delivery.choose(opened, trial, best)
    folder = delivery.export(opened, chosen, to, form=form.value, force=force)
    _say(f"trial {chosen.number} written and verified:")
    print(folder)


@study_app.command("delete")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Delete a study and its files."""
    from nasopt import study as studies

    opened = _open(storage, name, artifacts)
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("deleting asks first, and there is no terminal to ask on: pass --yes")
        typer.confirm(f"Delete the study {name!r} and {opened.folder}?", abort=True)
    studies.delete(opened)
    _say(f"study {name!r} deleted")


@app.command("dashboard")
def dashboard(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on this machine.")] = 8080,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Open optuna-dashboard on the studies of a database, on this machine only."""
    from nasopt.dashboard import HOST, make_dashboard
    from nasopt.storage.rdb import parse_url, resolve_url

    quiet_optuna(Settings.debug)
    server = make_dashboard(parse_url(resolve_url(storage)), port, artifacts)
    _say(f"http://{HOST}:{port}/ (Ctrl-C ends it)")
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


@app.command("methods")
def methods(output: Output = Format.table, debug: Debug = False, quiet: Quiet = False) -> None:
    """List the methods, with what each searches."""
    from nasopt.methods.base import available
    from nasopt.report.records import print_records

    records = [{"name": name, "searches": method.searches} for name, method in available().items()]
    print_records(records, output.value, {"method": "name", "searches": "searches"}, _stdout())


def _print_trials(opened: OpenStudy, chosen: list[FrozenTrial], output: Format) -> None:
    from nasopt.report import records as printing
    from nasopt.report import tables

    names = opened.study.metric_names or []
    records = [tables.trial_record(trial, names) for trial in chosen]
    if output is Format.table:
        records = [tables.with_totals(record) for record in records]
    printing.print_records(records, output.value, tables.trial_columns(names), _stdout())


def main() -> None:
    """Entry point of the console script."""
    Settings.debug, Settings.quiet = "--debug" in sys.argv, "--quiet" in sys.argv
    sys.path.insert(0, os.getcwd())  # functions named in a study file may lie beside it
    configure(Settings.debug, Settings.quiet)
    sys.exit(_run(lambda: app(standalone_mode=False)))


def _run(command: Callable[[], Any]) -> int:
    """Runs a command and turns what it raises into an exit code and one line."""
    # Typer brings click along, under one name or another: the base class of its own errors tells which.
    usage_error: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except typer.Abort:
        return _fail("aborted", 1)
    except usage_error as error:
        where = f" (see `{error.ctx.command_path} --help`)" if getattr(error, "ctx", None) else ""
        return _fail(error.format_message().rstrip(".") + where, 2)
    except NasoptError as error:
        return _fail(str(error), 2, error)
    except KeyboardInterrupt:
        return _fail("interrupted; what was under way is tried again next time", 1)
    except BrokenPipeError:
        return 1
    except Exception as error:
        hint = "" if Settings.debug else " (--debug shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}", 1, error)


def _fail(message: str, code: int, error: Exception | None = None) -> int:
    if Settings.debug and error is not None:
        import traceback

        traceback.print_exception(error)
    print(f"nasopt: {' '.join(message.split())}", file=sys.stderr)
    return code
