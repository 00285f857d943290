"""The Pareto front: the objectives in pairs, and three at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.subplots import make_subplots

from nasopt.errors import FigureError
from nasopt.numerics.pareto import pareto_mask
from nasopt.records import queries
from nasopt.report.figures.groups import (
    BASE,
    CONTROLS,
    FRONT,
    OUTSIDE,
    Axis,
    Group,
    axes_of,
    groups_of,
    hover_text,
    interval_of,
    names_in,
)
from nasopt.report.figures.style import axis_layout, styled

WITH_INTERVALS = (FRONT, CONTROLS, OUTSIDE)


def front(study: optuna.Study, x: str | None = None, y: str | None = None) -> go.Figure:
    """Every complete trial by two of its objectives, with the line of what no final trial of the search betters.

    Base model, controls, models from outside (by name) and provisional trials have marks of their own. Thin lines are
    95 % intervals of latencies.

    Args:
        study: the study.
        x: the objective of the horizontal axis; None for every pair of objectives, side by side.
        y: the objective of the vertical axis.

    Raises:
        FigureError: no trial is complete, or there is no such objective.

    Example:
        >>> figures.front(study, x="latency_ms", y="quality").write_html("front.html")
    """
    axes, groups = axes_of(study), _groups(study)
    if (x is None) != (y is None):
        raise FigureError("a front needs two objectives, or none for every pair of them")
    pairs = _pairs(axes) if x is None or y is None else [(_named(axes, x), _named(axes, y))]
    figure = make_subplots(cols=len(pairs), horizontal_spacing=0.26 / len(pairs))
    for column, pair in enumerate(pairs, 1):
        _draw_pair(figure, pair, axes, groups, _line(study, *pair), column)
    title = "Pareto front" if len(pairs) > 1 else f"{_short(pairs[0][1])} against {_short(pairs[0][0])}"
    return styled(figure, title, height=440)


def front_3d(study: optuna.Study) -> go.Figure:
    """Every complete trial by quality, the first latency and memory.

    Raises:
        FigureError: no trial is complete, or the study has fewer than three objectives.

    Example:
        >>> figures.front_3d(study).write_html("front-3d.html")
    """
    axes, groups = axes_of(study), _groups(study)
    if len(axes) < 3:
        raise FigureError("the study has fewer than three objectives: draw the front in pairs")
    quality, latency, memory = axes[0], axes[1], axes[-1]
    figure = go.Figure()
    for group in groups:
        figure.add_scatter3d(
            x=[latency.value(trial) for trial in group.trials],
            y=[memory.value(trial) for trial in group.trials],
            z=[quality.value(trial) for trial in group.trials],
            name=group.name,
            marker={"color": group.colour, "symbol": group.symbol_3d, "size": min(6, max(4, group.size // 2))},
            **_hover(group, axes),
        )
    styled(figure, "Pareto front in three dimensions", height=600)
    trials = [trial for group in groups for trial in group.trials]
    scene = {
        f"{name}axis": {
            **axis_layout(axis, [axis.value(trial) for trial in trials]),
            "backgroundcolor": "#F6F8FA",
            "nticks": 6,
        }
        for name, axis in zip("xyz", (latency, memory, quality), strict=True)
    }
    return figure.update_layout(
        scene={**scene, "camera": {"eye": {"x": 1.3, "y": -1.4, "z": 0.6}, "center": {"z": -0.15}}}
    )


def _groups(study: optuna.Study) -> list[Group]:
    found = groups_of(study)
    if not found:
        raise FigureError("no trial is complete yet: `nasopt study optimize` runs some")
    return found


def _pairs(axes: list[Axis]) -> list[tuple[Axis, Axis]]:
    """The quality against all others, then the others against each other."""
    return [(b, a) if a.index == 0 else (a, b) for a, b in combinations(axes, 2)]


def _named(axes: list[Axis], name: str) -> Axis:
    found = next((axis for axis in axes if axis.name == name), None)
    if found is None:
        raise FigureError(f"there is no objective {name!r}; the study has {', '.join(axis.name for axis in axes)}")
    return found


def _short(axis: Axis) -> str:
    return axis.label.partition(",")[0].capitalize()


def _line(study: optuna.Study, x: Axis, y: Axis) -> list[FrozenTrial]:
    """The final trials that none betters in these two objectives, from left to right."""
    trials = queries.feasible(queries.final_trials(study))
    if not trials:
        return []
    points = queries.minimised(trials, study)[:, [x.index, y.index]]
    on = [trial for trial, kept in zip(trials, pareto_mask(points), strict=True) if kept]
    return sorted(on, key=x.value)


def _draw_pair(
    figure: go.Figure, pair: tuple[Axis, Axis], axes: list[Axis], groups: list[Group], line: list[FrozenTrial], at: int
) -> None:
    x, y = pair
    if len(line) > 1:
        steps = {"color": "#0072B2", "width": 1.5, "shape": "hv", "dash": "dot"}
        points = {"x": [x.value(trial) for trial in line], "y": [y.value(trial) for trial in line]}
        figure.add_scatter(**points, mode="lines", line=steps, hoverinfo="skip", showlegend=False, row=1, col=at)
    for group in groups:
        marker = {"color": group.colour, "symbol": group.symbol, "size": group.size, "line": {"width": 1.5}}
        if not group.symbol.endswith("-open"):
            marker["line"] = {"width": 1, "color": "white"}
        figure.add_scatter(
            x=[x.value(trial) for trial in group.trials],
            y=[y.value(trial) for trial in group.trials],
            name=group.name,
            legendgroup=group.name,
            showlegend=at == 1,
            marker=marker,
            opacity=1.0 if group.name in (*WITH_INTERVALS, BASE) else 0.75,
            error_x=_intervals(group, x),
            **_hover(group, axes),
            row=1,
            col=at,
        )
    trials = [trial for group in groups for trial in group.trials]
    figure.update_xaxes(axis_layout(x, [x.value(trial) for trial in trials]), row=1, col=at)
    figure.update_yaxes(axis_layout(y, [y.value(trial) for trial in trials]), row=1, col=at)


def _intervals(group: Group, axis: Axis) -> dict[str, object] | None:
    """Bars from the low to the high end of each latency's interval."""
    if group.name not in WITH_INTERVALS:
        return None
    found = [interval_of(trial, axis.name) for trial in group.trials]
    if None in found:
        return None
    ends = np.array(found)
    values = np.array([axis.value(trial) for trial in group.trials])
    return {
        "type": "data",
        "array": np.maximum(ends[:, 1] - values, 0).tolist(),
        "arrayminus": np.maximum(values - ends[:, 0], 0).tolist(),
        "thickness": 1,
        "width": 0,
    }


def _hover(group: Group, axes: list[Axis]) -> dict[str, object]:
    """The text under the pointer, each trial's number for whoever handles clicks, and names beside marks."""
    names, said = names_in(group), [hover_text(trial, axes, group.name) for trial in group.trials]
    numbers = [trial.number for trial in group.trials]
    if names is None:
        return {"mode": "markers", "text": said, "customdata": numbers, "hovertemplate": "%{text}<extra></extra>"}
    return {
        "mode": "markers+text",
        "text": names,
        "textposition": "top center",
        "textfont": {"size": 11},
        "hovertext": said,
        "customdata": numbers,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
