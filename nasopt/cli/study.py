"""`nasopt study`: creating, running and looking at studies."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nasopt.cli.options import (
    DATABASE_WAIT,
    AcceptDeviceChange,
    Artifacts,
    DatabaseWait,
    Debug,
    Format,
    Name,
    Output,
    Quiet,
    Settings,
    Storage,
    TrustStudy,
    database,
    help_without_command,
    open_to_run,
    warn_of_password,
)
from nasopt.cli.options import open_named as _open
from nasopt.cli.options import say as _say
from nasopt.cli.options import stdout as _stdout
from nasopt.errors import NasoptError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nasopt.study.opening import OpenStudy


study_app = typer.Typer(help="Create, run and look at studies.", rich_markup_mode=None)


class Engine(StrEnum):
    """The place where the trials of a command run."""

    local = "local"
    ray = "ray"


class ExportFormat(StrEnum):
    """The form of an exported model."""

    hf = "hf"
    onnx = "onnx"


study_app.callback(invoke_without_command=True)(help_without_command)


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
    from nasopt.storage.rdb import shown
    from nasopt.study.creation import create as create_study
    from nasopt.study.creation import read_study_file

    url = database(storage)
    config = read_study_file(study_file, name)
    created = create_study(config, url, artifacts=artifacts, skip_if_exists=skip_if_exists)
    warn_of_password(storage, url)
    _say(f"study {config.name!r} {'created in' if created else 'is already in'} {shown(url)}")


@study_app.command("optimize")
def optimize(
    name: Name,
    n_trials: Annotated[
        int | None, typer.Option("--n-trials", min=1, help="This many more trials; default: all that are left.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Begin no trial after this many seconds.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes, spread evenly over the GPUs; default: one for each, else 1."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Who runs the workers: this machine, or a Ray cluster.")
    ] = Engine.local,
    address: Annotated[
        str, typer.Option("--address", help="With --engine ray: the cluster; auto: this machine's.")
    ] = "auto",
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make lost artifacts again.")] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="For a study that was copied or moved: take its files, or a copy of those it shares."
        ),
    ] = False,
    accept_device_change: AcceptDeviceChange = False,
    database_wait: DatabaseWait = DATABASE_WAIT,
    trust_study: TrustStudy = False,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Run trials. A second call goes on where the first stopped."""
    from nasopt.execution import local
    from nasopt.execution.confirmation import unconfirmed
    from nasopt.execution.devices import usual_workers
    from nasopt.execution.progress import make_view
    from nasopt.execution.search import remaining_budget
    from nasopt.methods.registry import make_method
    from nasopt.study import opening as studies
    from nasopt.study import trust

    if engine is Engine.ray and workers is None:
        raise typer.BadParameter("--engine ray needs --workers N: Ray places them where there is room")
    opened = open_to_run(storage, name, artifacts, trust_study=trust_study, database_wait=database_wait)
    opened = studies.with_data(opened, data)
    studies.check_artifacts(opened, rebuild=rebuild, adopt=adopt)
    trust.record(opened)  # once more: the study may have got another id just now
    budget = make_method(opened.config).plan.budget
    count = n_trials if n_trials is not None else remaining_budget(opened, budget)
    if count == 0 and not unconfirmed(opened):
        _say(f"all {budget} trials of the search are done; --n-trials N runs more")
        return
    if workers is None:
        workers = usual_workers()
        if workers > 1:
            _say(f"{workers} GPUs: a worker on each (--workers 1 for one alone)")
    view = make_view(Console(stderr=True), count, Settings.quiet)
    over = local.optimize(
        opened,
        view,
        n_trials=count,
        shared=n_trials is None,
        timeout=timeout,
        workers=workers,
        debug=Settings.debug,
        accept_device_change=accept_device_change,
        cluster=address if engine is Engine.ray else None,
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
    from nasopt.report import printing, tables
    from nasopt.study import opening as studies

    url = database(storage)
    found, unreadable = studies.list_studies(url, artifacts)
    warn_of_password(storage, url)
    records = []
    for opened in found:
        try:
            records.append(tables.study_record(opened))
        except NasoptError as error:
            unreadable[opened.name] = str(error)
    for name, reason in unreadable.items():
        _say(f"{name}: {reason}")
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
    from nasopt.report import printing, tables
    from nasopt.report.confirmations import with_summary

    opened = _open(storage, name, artifacts, read_only=True)
    printing.print_record(with_summary(opened, tables.study_record(opened)), output.value, _stdout())


@study_app.command("pareto")
def pareto(
    name: Name,
    provisional: Annotated[
        bool, typer.Option("--all", help="The front of all trials, provisional ones among them, which are marked.")
    ] = False,
    where: Annotated[
        str, typer.Option("--where", help='Only members that satisfy it: "quality>=0.90 and memory_mb<60".')
    ] = "",
    prefer: Annotated[
        str, typer.Option("--prefer", help="The objective whose best value comes first: latency, memory, quality.")
    ] = "quality",
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Show the Pareto front, best quality first, and whether its members beat their controls."""
    from nasopt.report.choosing import Choice
    from nasopt.report.front import print_front

    opened = _open(storage, name, artifacts, read_only=True)
    chosen = Choice(where, prefer)
    for line in print_front(opened, output.value, _stdout(), provisional=provisional, choice=chosen):
        _say(line)


@study_app.command("controls")
def controls(
    name: Name,
    random_masks: Annotated[
        int, typer.Option("--random-masks", min=0, help="Random masks of the depth of each Pareto member.")
    ] = 5,
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    accept_device_change: AcceptDeviceChange = False,
    database_wait: DatabaseWait = DATABASE_WAIT,
    trust_study: TrustStudy = False,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate what the search must beat: models that need none, made with the budgets of the Pareto front's."""
    from nasopt.execution import local
    from nasopt.execution.controls import members_of
    from nasopt.execution.progress import make_view
    from nasopt.report.verdicts import print_controls
    from nasopt.study import opening as studies
    from nasopt.study import trust

    opened = open_to_run(storage, name, artifacts, trust_study=trust_study, database_wait=database_wait)
    members_of(opened)
    opened = studies.with_data(opened, data)
    studies.check_artifacts(opened)
    trust.record(opened)  # once more: the study may have got another id just now
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
    opened = _open(storage, name, artifacts, read_only=True)
    _print_trials(opened, opened.study.get_trials(deepcopy=False), output)


@study_app.command("export")
def export(
    name: Name,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Number of the trial.")] = None,
    best: Annotated[
        str | None, typer.Option("--best", help='Best quality that satisfies it: "memory_mb<60 and latency_ms<=5".')
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The knee of the front, which `pareto` marks.")] = False,
    form: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            help="hf: a folder for from_pretrained; onnx: model.onnx in its place. Default: what was measured.",
        ),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", min=1, help="Cut vectors to their first entries: one of the study's `dimensions`."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    trust_study: TrustStudy = False,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Write a trial's model, read it back and compare, and evaluate it once on the test split."""
    from nasopt.export import trial as delivery
    from nasopt.study import opening as studies

    if [trial is not None, best is not None, knee].count(True) != 1:
        raise typer.BadParameter("name the model by --trial N, by --best CONDITION or by --knee, one of them")
    opened = open_to_run(storage, name, artifacts, trust_study=trust_study, read_only=True)
    opened = studies.with_data(opened, data)
    chosen = delivery.choose_knee(opened) if knee else delivery.choose(opened, trial, best)
    folder = delivery.export(
        opened, chosen, to, form=None if form is None else form.value, dimension=dimensions, force=force
    )
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
    from nasopt.storage.rdb import explaining_failures
    from nasopt.study.deletion import Deletion

    url = database(storage)
    with explaining_failures(url):
        deletion = Deletion.of(url, name, artifacts)
        warn_of_password(storage, url)
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("deleting asks first, and there is no terminal to ask on: pass --yes")
            files = "" if deletion.folder is None else f" and {deletion.folder}"
            typer.confirm(f"Delete the study {name!r}{files}?", abort=True)
        deletion.run()
    _say(f"study {name!r} deleted")
    if deletion.kept is not None:
        _say(deletion.kept)


def _print_trials(opened: OpenStudy, chosen: list[FrozenTrial], output: Format) -> None:
    from nasopt.report import printing, tables

    names = opened.config.metric_names
    records = [tables.trial_record(trial, names) for trial in chosen]
    if output is Format.table:
        records = [tables.with_totals(record) for record in records]
    printing.print_records(records, output.value, tables.trial_columns(names), _stdout())
