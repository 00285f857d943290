"""The report of a study: one HTML file that needs no network, for screens, telephones and paper."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import plotly.graph_objects as go
import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from nasopt.errors import FigureError
from nasopt.report import figures
from nasopt.report.confirmations import confirmation_columns, with_words
from nasopt.report.figures.style import untitled
from nasopt.report.outside import OUTSIDE_COLUMNS, outside_columns, with_outside_verdict
from nasopt.report.printing import Record, flatten, shown
from nasopt.report.tables import with_totals
from nasopt.report.verdicts import VERDICT_COLUMNS, front_columns, with_ratios, with_verdict
from nasopt.report.writing import CONFIG
from nasopt.study.opening import OpenStudy
from nasopt.version import __version__

QUIET = {**CONFIG, "displayModeBar": False}
"""plotly.js's, without buttons, which lie on legends and are printed."""
PARTS = ("layers", "heads", "ffn", "cells", "parameters")
"""Columns of the table of a front that the words for its architectures stand in for."""
SCENE = 460
"""Pixels that three dimensions need."""
LABELS, CELL = 240, 34
"""Pixels that the labels of a heat map need, and each of its columns."""


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: the end of its element's id.
        caption: what it shows.
        json: the figure as plotly.js takes it; empty if it cannot be drawn.
        reason: why it cannot.
        width: pixels that it needs; where the page is narrower, it is scrolled.
        height: pixels that it takes.
    """

    name: str
    caption: str
    json: str = ""
    reason: str = ""
    width: int = LABELS
    height: int = 0


@dataclass(frozen=True)
class Table:
    """A table of texts: headings, and rows as long; `marked` are the places of rows that stand out."""

    headings: list[str]
    rows: list[list[str]]
    marked: frozenset[int] = frozenset()


def report_page(opened: OpenStudy, record: Record) -> str:
    """The page.

    Args:
        opened: the study, whose figures are drawn.
        record: what :func:`nasopt.report.document.report_record` says of it.
    """
    environment = Environment(
        loader=PackageLoader("nasopt.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["code"] = _with_code
    return environment.get_template("report.html").render(
        study=record["study"],
        record=record,
        front=_front_table(opened, record),
        controls=_controls_table(opened, record),
        outside=_outside_table(opened, record),
        front_pictures=_front_pictures(opened),
        pictures=_pictures(opened),
        configuration=tomli_w.dumps(_without_none(record["configuration"])),
        plotly=get_plotlyjs(),
        settings=json.dumps(QUIET),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
    )


def _with_code(text: str) -> Markup:
    """The text, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _front_table(opened: OpenStudy, record: Record) -> Table:
    names = opened.config.metric_names
    columns = {head: key for head, key in front_columns(names, record["front"]).items() if head not in PARTS}
    columns |= {"keeps": "architecture"} | confirmation_columns(names)
    base = record["study"]["base"]
    rows = []
    for item in record["front"]:
        row = with_totals(with_words(with_ratios(item)))
        is_base = item["against_base"] is None and base is not None
        row = with_verdict(row, not is_base) if _own_controls(record) else row
        rows.append(with_outside_verdict(row, not is_base) if record["outside"] else row)
    marked = frozenset(place for place, item in enumerate(record["front"]) if item["knee"])
    columns |= VERDICT_COLUMNS if _own_controls(record) else {}
    return _table(columns | (OUTSIDE_COLUMNS if record["outside"] else {}), rows, marked)


def _own_controls(record: Record) -> list[Record]:
    """The controls without the models from outside, which have a table of their own."""
    outside = {item["number"] for item in record["outside"]}
    return [item for item in record["controls"] if item["number"] not in outside]


def _outside_table(opened: OpenStudy, record: Record) -> Table:
    columns = {
        **outside_columns(opened.config.metric_names, record["outside"]),
        "epochs here": "epochs",
        "dominates": "beaten",
        "dominated by": "beaten_by",
    }
    rows = [
        {
            **with_ratios(item),
            "beaten": ", ".join(map(str, item["dominates"])) or None,
            "beaten_by": ", ".join(map(str, item["dominated_by"])) or None,
        }
        for item in record["outside"]
    ]
    return _table(columns, rows)


def _controls_table(opened: OpenStudy, record: Record) -> Table:
    values = {name: f"values.{name}" for name in opened.config.metric_names}
    columns = {"control": "control", "trial": "number", **values, "depth": "depth", "precision": "precision"} | {
        "fine-tuned": "finetune_epochs",
        "distilled": "distill_epochs",
        "failure": "failure",
    }
    return _table(columns, _own_controls(record))


def _table(columns: dict[str, str], records: list[Record], marked: frozenset[int] = frozenset()) -> Table:
    flat = [flatten(item) for item in records]
    kept = {head: key for head, key in columns.items() if any(item.get(key) is not None for item in flat)}
    rows = [[shown(key, item.get(key)) for key in kept.values()] for item in flat]
    return Table([head.replace("_", " ") for head in kept], rows, marked)


def _front_pictures(opened: OpenStudy) -> list[Picture]:
    """The quality against each other objective, and what is left of the pairs."""
    quality, *others = opened.config.metric_names
    pairs = [(other, quality) for other in others] + [
        (a, b) for place, a in enumerate(others) for b in others[place + 1 :]
    ]
    return [
        _picture(f"front-{x}-{y}", f"{_words(y)} against {_words(x)}", partial(figures.front, opened.study, x, y))
        for x, y in pairs
    ]


def _words(name: str) -> str:
    return name.replace("_ms", "").replace("_mb", "").replace("_", " ")


def _pictures(opened: OpenStudy) -> dict[str, Picture]:
    study, folder = opened.study, opened.folder
    found = [
        _picture("front-3d", "Quality, latency and memory at once", lambda: figures.front_3d(study)),
        _picture("hypervolume", "Over the trials of the search", lambda: figures.hypervolume(study)),
        _picture(
            "hypervolume-time", "Over the time in which trials ran", lambda: figures.hypervolume(study, over="time")
        ),
        _picture("architecture", "Kept of each layer, best quality first", lambda: figures.architecture(study, folder)),
        _picture(
            "sensitivity", "What the loss of units is expected to cost", lambda: figures.sensitivity(study, folder)
        ),
        _picture("genes", "Quality against each parameter", lambda: figures.genes(study, columns=2)),
        _picture("curves", "Losses while it was trained", lambda: figures.curves(study)),
    ]
    return {picture.name: picture for picture in found}


def _picture(name: str, caption: str, draw: Callable[[], go.Figure]) -> Picture:
    try:
        figure = untitled(draw())
    except FigureError as error:
        return Picture(name, caption, reason=str(error))
    maps = [len(trace.x) for trace in figure.data if trace.type == "heatmap"]
    width = SCENE if any(trace.type == "scatter3d" for trace in figure.data) else LABELS + CELL * max(maps, default=0)
    # In a script's text, nothing but `<` could be taken for markup.
    return Picture(name, caption, figure.to_json().replace("<", "\\u003c"), width=width, height=figure.layout.height)


def _without_none(value: Any) -> Any:
    """The value without keys that are not set, which TOML has no word for."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
