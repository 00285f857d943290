"""The quality against each parameter of a search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.subplots import make_subplots

from nasopt.errors import FigureError
from nasopt.report.figures.groups import CONTROLS, OTHER, Group, axes_of, groups_of, hover_text
from nasopt.report.figures.style import styled

COLUMNS = 3
MOST_OTHERS = 400
"""As many trials off the front are drawn; a page with more marks is slow."""


def genes(study: optuna.Study, columns: int = COLUMNS) -> go.Figure:
    """The quality of every complete trial against each parameter that varies. Controls have no parameters.

    Args:
        study: the study.
        columns: how many parameters stand side by side.

    Raises:
        FigureError: no parameter has two values.

    Example:
        >>> figures.genes(study, columns=3).write_html("genes.html")
    """
    groups = [_thinned(group) for group in groups_of(study) if group.name != CONTROLS]
    names = _varying([trial for group in groups for trial in group.trials])
    if not names:
        raise FigureError("no parameter has more than one value among the complete trials")
    columns = min(columns, len(names))
    rows = math.ceil(len(names) / columns)
    figure = make_subplots(
        rows, columns, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=min(0.4 / rows, 0.16)
    )
    axes = axes_of(study)
    for index, name in enumerate(names):
        row, column = index // columns + 1, index % columns + 1
        for group in groups:
            trials = [trial for trial in group.trials if name in trial.params]
            figure.add_scatter(
                x=[_shown(trial.params[name]) for trial in trials],
                y=[trial.values[0] for trial in trials],
                mode="markers",
                name=group.name,
                legendgroup=group.name,
                showlegend=index == 0,
                marker={"color": group.colour, "symbol": group.symbol, "size": max(6, group.size - 3)},
                text=[hover_text(trial, axes, group.name) for trial in trials],
                customdata=[trial.number for trial in trials],
                hovertemplate="%{text}<extra></extra>",
                row=row,
                col=column,
            )
        figure.update_xaxes(title_text=name.replace("_", " "), row=row, col=column)
    styled(figure, "Quality against each parameter", height=110 + 230 * rows)
    return figure.update_yaxes(title_text=axes[0].label, col=1)


def _thinned(group: Group) -> Group:
    """The group with so many trials that a page can hold them, drawn at random with a fixed seed."""
    if group.name != OTHER or len(group.trials) <= MOST_OTHERS:
        return group
    chosen = np.sort(np.random.default_rng(0).choice(len(group.trials), MOST_OTHERS, replace=False))
    name = f"{MOST_OTHERS} of {len(group.trials)} {OTHER}"
    return Group(name, tuple(group.trials[index] for index in chosen), group.colour, group.symbol, group.size)


def _varying(trials: list[FrozenTrial]) -> list[str]:
    """The parameters that have more than one value, in the order in which they were first suggested."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if len({trial.params[name] for trial in trials if name in trial.params}) > 1]


def _shown(value: Any) -> Any:
    """A number as it is; anything else as text, so that plotly makes categories of it."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
