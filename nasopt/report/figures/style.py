"""The look that all figures share: fonts, margins, axes whose ticks can be read on paper and on a telephone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from nasopt.report.figures.groups import Axis

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#9A9A9A")
"""Colours that differ for the colour-blind, too (Okabe and Ito 2008)."""
SCALE = ((0.0, "#F2F6FA"), (1.0, "#0072B2"))
"""Nothing to everything."""
LOG_FROM = 5.0
"""An axis is logarithmic where its largest value is this many times its smallest one."""
GRID = "#E3E3E3"


TITLE, LEGEND, HEADINGS = 38, 30, 30
"""Pixels above the data for the title, one line of a legend, and headings of the figure's parts."""


def styled(figure: go.Figure, title: str, *, height: int = 460, headings: bool = False) -> go.Figure:
    """The figure with a title and a legend that lie above the data, never on them.

    Args:
        figure: is changed.
        title: its title.
        height: in pixels, all included; the width is that of the page.
        headings: whether its parts have headings, which the legend must leave room for.
    """
    has_legend = sum(trace.showlegend is not False and trace.name is not None for trace in figure.data) > 1
    above = HEADINGS if headings else 6
    top = TITLE + above + (LEGEND if has_legend else 0)
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif", "size": 13},
        title={"text": title, "x": 0.01, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + above / (height - top - 60),
            "yanchor": "bottom",
        },
        margin={"l": 10, "r": 16, "t": top, "b": 10},
        title_font_size=16,
        height=height,
        hoverlabel={"align": "left", "font": {"size": 12}},
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID, zeroline=False, title_standoff=8)
    figure.update_yaxes(automargin=True, gridcolor=GRID, zeroline=False, title_standoff=8)
    return figure


def untitled(figure: go.Figure) -> go.Figure:
    """The figure for a page that has a heading of its own: the legend may then take several lines."""
    return figure.update_layout(
        title_text=None, margin_t=figure.layout.margin.t - TITLE + 8, height=figure.layout.height - TITLE + 8
    )


def axis_layout(axis: Axis, values: Sequence[float]) -> dict[str, Any]:
    """The layout of an objective's axis: logarithmic where the values span more than a factor of :data:`LOG_FROM`."""
    positive = [value for value in values if value > 0]
    layout: dict[str, Any] = {"title_text": axis.label}
    if not axis.is_minimised or not positive or max(positive) < LOG_FROM * min(positive):
        return layout
    ticks = round_ticks(min(positive), max(positive))
    return {**layout, "type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def round_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten that lie between two positive numbers, and the next ones beside them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    return [tick for tick in found if low / 2.5 < tick < high * 2.5]
