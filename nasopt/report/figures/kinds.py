"""The figures by the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
import plotly.graph_objects as go

from nasopt.errors import FigureError, choices
from nasopt.report.figures.curves import curves
from nasopt.report.figures.front import front, front_3d
from nasopt.report.figures.genes import genes
from nasopt.report.figures.progress import hypervolume
from nasopt.report.figures.sensitivity import sensitivity
from nasopt.report.figures.shapes import architecture

KINDS: Mapping[str, Callable[[optuna.Study, Path | None], go.Figure]] = {
    "front": lambda study, _: front(study),
    "front-3d": lambda study, _: front_3d(study),
    "hypervolume": lambda study, _: hypervolume(study),
    "hypervolume-time": lambda study, _: hypervolume(study, over="time"),
    "architecture": architecture,
    "sensitivity": sensitivity,
    "genes": lambda study, _: genes(study),
    "curves": lambda study, _: curves(study),
}
"""(study, artifact folder or None) -> figure, by kind."""


def draw(study: optuna.Study, kind: str, folder: Path | None = None) -> go.Figure:
    """The figure of that kind.

    Args:
        study: the study.
        kind: one of :data:`KINDS`.
        folder: the study's artifact folder; None for the one that the study names.

    Raises:
        FigureError: there is no such kind, or the study stores nothing that it shows.

    Example:
        >>> figures.draw(study, "front-3d").write_html("front-3d.html")
    """
    if kind not in KINDS:
        raise FigureError(f"there is no figure {kind!r}; there are {choices(list(KINDS))}")
    return KINDS[kind](study, folder)
