"""`nasopt study add`: a model that was made elsewhere, beside what a search finds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from nasopt.cli.options import (
    AcceptDeviceChange,
    Artifacts,
    Debug,
    Format,
    Name,
    Output,
    Quiet,
    Settings,
    Storage,
    TrustStudy,
    open_to_run,
    say,
    stdout,
)
from nasopt.cli.study import study_app


@study_app.command("add")
def add(
    name: Name,
    model: Annotated[str, typer.Option("--model", help="Its folder, or its id on the hub. None of its code is run.")],
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train it on the study's data as the base model is ([base_training]).")
    ] = False,
    data: Annotated[str | None, typer.Option("--data", help="Where the study's data are on this machine.")] = None,
    accept_device_change: AcceptDeviceChange = False,
    trust_study: TrustStudy = False,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model that was made elsewhere, such as a downloaded student: does the search find better ones?"""
    from nasopt.execution import local
    from nasopt.execution.progress import make_view
    from nasopt.report.outside import print_outside
    from nasopt.study import opening as studies
    from nasopt.study import trust

    opened = open_to_run(storage, name, artifacts, trust_study=trust_study)
    opened = studies.with_data(opened, data)
    studies.check_artifacts(opened)
    trust.record(opened)  # once more: the study may have got another id just now
    view = make_view(Console(stderr=True), 1, Settings.quiet)
    trial, is_new = local.add_model(
        opened, view, model, revision=revision, train=train, accept_device_change=accept_device_change
    )
    for line in print_outside(opened, trial, output.value, stdout()):
        say(line)
    if not is_new:
        say(f"it is there already, as trial {trial.number}; nothing was done")
    say(f"`nasopt study pareto {name}` compares the search with it")
