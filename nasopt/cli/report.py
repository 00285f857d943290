"""`nasopt study plot` and `nasopt study report`: a study as pictures and as a page."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nasopt.cli.options import Artifacts, Debug, Format, Name, Output, Quiet, Storage, open_named, say, stdout
from nasopt.cli.study import study_app


class Kind(StrEnum):
    """A figure."""

    front = "front"
    front_3d = "front-3d"
    hypervolume = "hypervolume"
    hypervolume_time = "hypervolume-time"
    architecture = "architecture"
    sensitivity = "sensitivity"
    genes = "genes"
    curves = "curves"


class ReportFormat(StrEnum):
    """The form of a report."""

    html = "html"
    json = "json"


@study_app.command("plot")
def plot(
    name: Name,
    to: Annotated[Path, typer.Option("--to", help="File to write: .html, or .png or .svg (extra `images`).")],
    kind: Annotated[Kind, typer.Option("--kind", help="What to draw.")] = Kind.front,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Draw a figure of a study: its front, hypervolume, architectures and more."""
    from nasopt.report.figures import draw
    from nasopt.report.writing import PAGE, PICTURES, check_path, write_figure

    check_path(to, (PAGE, *PICTURES))
    opened = open_named(storage, name, artifacts, read_only=True)
    write_figure(draw(opened.study, kind.value, opened.folder), to)
    print(to)


@study_app.command("report")
def report(
    name: Name,
    to: Annotated[Path | None, typer.Option("--to", help="File to write: .html. Needed unless -f json.")] = None,
    output: Annotated[
        ReportFormat, typer.Option("-f", "--format", help="html: a page; json: its numbers, on stdout unless --to.")
    ] = ReportFormat.html,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Write what a study found as one page that needs no network, or its numbers as JSON."""
    from nasopt.report.document import report_record
    from nasopt.report.writing import PAGE, check_path, write_text

    is_page = output is ReportFormat.html
    if is_page and to is None:
        raise typer.BadParameter("name the file of the page by --to FILE.html")
    if to is not None:
        check_path(to, (PAGE,) if is_page else (".json",))
    opened = open_named(storage, name, artifacts, read_only=True)
    record = report_record(opened, storage)
    for sentence in record["headline"]["sentences"] if is_page else ():
        say(sentence)
    if is_page:
        from nasopt.report.page import report_page

        text = report_page(opened, record)
    else:
        text = json.dumps(record, indent=2)
    if to is None:
        print(text)
    else:
        write_text(text, to)
        print(to)


@study_app.command("compare")
def compare(
    name: Name,
    other: Annotated[str, typer.Argument(help="Name of another study of the same task, in the same database.")],
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Compare what two studies of one task found: hypervolume, effort, best qualities, nearest members."""
    from nasopt.report.compare import compare as compared
    from nasopt.report.compare import print_comparison

    opened = [open_named(storage, each, artifacts, read_only=True) for each in (name, other)]
    for line in print_comparison(compared(*opened), output.value, stdout()):
        say(line)
