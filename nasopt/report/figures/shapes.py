"""What the models of a front look like: heads and FFN neurons of each layer, or the operation of each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.subplots import make_subplots

from nasopt.architecture.cells import OPERATIONS
from nasopt.errors import ArtifactFolderError, FigureError
from nasopt.records import queries
from nasopt.report.figures.groups import Axis, axes_of
from nasopt.report.figures.style import COLOURS, SCALE, styled
from nasopt.storage.attachments import attached
from nasopt.storage.ownership import place_of

ROW = 26
"""Pixels of a row that can be read."""
GAP = 74
"""Pixels between two maps: the ticks of the upper one, the heading of the lower one."""
BESIDES = 150


@dataclass(frozen=True)
class Shape:
    """A model part by part.

    Attributes:
        heads: the attention heads of each of the base model's layers; 0 where the layer is gone.
        ffn: the FFN neurons of each of its layers.
        cells: the operation of each cell, for a chain of cells, which has no layers.
    """

    heads: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()
    cells: tuple[str, ...] = ()


def folder_of(study: optuna.Study, folder: Path | None) -> Path | None:
    """The study's artifact folder: the given one, or the one that the study names; None where it names none."""
    if folder is not None:
        return folder
    try:
        place = place_of(study)
        return None if place is None else place.folder
    except ArtifactFolderError:
        return None


def shapes_of(study: optuna.Study, trials: Sequence[FrozenTrial], folder: Path | None = None) -> dict[int, Shape]:
    """The shapes of trials by number, out of their attachments, else out of their parameters; unknown ones are missing.

    Args:
        study: the trials' study.
        trials: complete ones.
        folder: the study's artifact folder; None for the one that the study names.
    """
    place = folder_of(study, folder)
    found = {}
    for trial in trials:
        document = None if place is None else attached(study, trial, place, "architecture.json")
        shape = _from_params(trial.params) if document is None else _from_document(document)
        if shape is not None:
            found[trial.number] = shape
    return found


def _from_document(document: Mapping[str, Any]) -> Shape | None:
    if "cells" in document:
        return Shape(cells=tuple(document["cells"]))
    if "layers" not in document:
        return None  # a kind of architecture that another package adds
    layers = document["layers"]
    heads = (0 if layer is None else len(layer["heads"]) for layer in layers)
    return Shape(tuple(heads), tuple(0 if layer is None else layer["ffn"] for layer in layers))


def _from_params(params: Mapping[str, Any]) -> Shape | None:
    cells = _numbered(params, "cell")
    if cells:
        return Shape(cells=tuple(cells))
    heads, ffn = _numbered(params, "heads"), _numbered(params, "ffn")
    if not heads or len(heads) != len(ffn):
        return None
    kept = _numbered(params, "layer") or [1] * len(heads)
    return Shape(
        tuple(count if stays else 0 for count, stays in zip(heads, kept, strict=True)),
        tuple(count if stays else 0 for count, stays in zip(ffn, kept, strict=True)),
    )


def _numbered(params: Mapping[str, Any], part: str) -> list[Any]:
    """The values of `part_0`, `part_1` and so on."""
    values: list[Any] = []
    while f"{part}_{len(values)}" in params:
        values.append(params[f"{part}_{len(values)}"])
    return values


def architecture(study: optuna.Study, folder: Path | None = None, *, most: int | None = None) -> go.Figure:
    """What each member of the front keeps, best quality first: two heat maps of layers, for heads and FFN neurons.

    The base model comes first. A chain of cells is one map, with a colour for each operation.

    Args:
        study: the study.
        folder: its artifact folder; None for the one that the study names.
        most: how many members are drawn, the best and the worst and others evenly between them; None for all.

    Raises:
        FigureError: there is no front, or nothing is stored of its members' shapes.

    Example:
        >>> figures.architecture(study).write_html("architecture.html")
    """
    base = queries.base_of(study)
    front = sorted(queries.pareto_front(study), key=lambda trial: trial.values[0], reverse=True)
    members = [trial for trial in front if base is None or trial.number != base.number]
    if not members:
        raise FigureError("the front has no members but the base model yet")
    count = len(members)
    if most is not None and count > most:
        members = [members[round(place)] for place in np.linspace(0, count - 1, most)]
    trials = ([] if base is None else [base]) + members
    shapes = shapes_of(study, trials, folder)
    axes = axes_of(study)  # reads the study's attributes, notes included
    labels = {trial.number: _row_label(trial, axes, base) for trial in trials}
    cells = {number: shape.cells for number, shape in shapes.items() if shape.cells}
    if cells:
        return _of_how_many(_cell_map(cells, labels), members, count)
    layered = {number: shape for number, shape in shapes.items() if shape.heads}
    if not layered:
        raise FigureError("neither parameters nor attachments say what the members of the front look like")
    return _of_how_many(_layer_maps(layered, labels), members, count)


def _of_how_many(figure: go.Figure, members: Sequence[FrozenTrial], count: int) -> go.Figure:
    """The figure, whose title says so where it does not show all members."""
    if len(members) == count:
        return figure
    return figure.update_layout(title_text=f"{figure.layout.title.text} ({len(members)} of {count} members)")


def _row_label(trial: FrozenTrial, axes: list[Axis], base: FrozenTrial | None) -> str:
    name = "base" if base is not None and trial.number == base.number else f"trial {trial.number}"
    return f"{name} \N{MIDDLE DOT} {trial.values[0]:.3f} \N{MIDDLE DOT} {axes[1].value(trial):.4g} ms"


def _layer_maps(shapes: Mapping[int, Shape], labels: Mapping[int, str]) -> go.Figure:
    rows = [labels[number] for number in shapes]
    height = BESIDES + GAP + 2 * ROW * len(rows)
    figure = make_subplots(
        rows=2, subplot_titles=("attention heads", "FFN neurons"), vertical_spacing=GAP / (height - BESIDES)
    )
    for row, part in enumerate(("heads", "ffn"), 1):
        counts: list[tuple[int, ...]] = [getattr(shape, part) for shape in shapes.values()]
        most = max(max(line) for line in counts) or 1
        figure.add_heatmap(
            z=[[count / most for count in line] for line in counts],
            x=[str(layer) for layer in range(len(counts[0]))],
            y=rows,
            text=[[str(count) if count else "" for count in line] for line in counts],
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale=SCALE,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            showscale=False,
            customdata=counts,
            hovertemplate="%{y}<br>layer %{x}: %{customdata} "
            + ("heads" if part == "heads" else "neurons")
            + "<extra></extra>",
            row=row,
            col=1,
        )
    styled(figure, "Kept of each layer, best quality first", height=height, headings=True)
    figure.update_xaxes(type="category", showgrid=False, title_text="layer of the base model", row=2, col=1)
    figure.update_xaxes(type="category", showgrid=False, row=1, col=1)
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False)


def _cell_map(cells: Mapping[int, Sequence[str]], labels: Mapping[int, str]) -> go.Figure:
    members = {number: line for number, line in cells.items() if line}
    longest = max(len(line) for line in members.values())
    positions: dict[str, int] = {operation: index for index, operation in enumerate(OPERATIONS)}
    count = len(OPERATIONS)
    bands = [(edge / count, COLOURS[index]) for index in range(count) for edge in (index, index + 1)]
    padded = [[*line, *[""] * (longest - len(line))] for line in members.values()]
    figure = go.Figure()
    figure.add_heatmap(
        z=[[positions.get(operation) for operation in line] for line in padded],
        x=[str(cell) for cell in range(longest)],
        y=[labels[number] for number in members],
        text=padded,
        texttemplate="%{text}",
        textfont={"size": 11, "color": "white"},
        colorscale=bands,
        zmin=-0.5,
        zmax=count - 0.5,
        xgap=2,
        ygap=2,
        showscale=False,
        hovertemplate="%{y}<br>cell %{x}: %{text}<extra></extra>",
    )
    styled(figure, "Operation of each cell, best quality first", height=BESIDES + ROW * len(members))
    figure.update_xaxes(type="category", showgrid=False, title_text="cell")
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
