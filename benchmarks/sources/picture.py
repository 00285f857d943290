"""One figure of all methods: the hypervolume as time goes on, and the fronts in the end."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.front.equal_time import final_points
from benchmarks.front.figures import volume_after
from benchmarks.front.results import Row
from benchmarks.sources.methods import GENERIC, by_name, points_of
from nasopt.report.figures.style import COLOURS, styled

GREY = "#9A9A9A"
SECONDS = 5
"""Between two points of a curve."""


def picture(rows: Sequence[Row]) -> go.Figure:
    """The runs of one budget of time: hypervolumes as means over seeds, fronts of the first seed.

    Args:
        rows: of the piece `methods`, all with the same minutes.
    """
    minutes, runs = rows[0]["minutes"], by_name(rows)
    first = min(row["seed"] for row in rows)
    figure = make_subplots(
        1, 2, subplot_titles=("Hypervolume over time", f"Fronts in the end, seed {first}"), horizontal_spacing=0.08
    )
    times = list(range(0, int(60 * minutes) + 1, SECONDS))
    colours = iter(COLOURS)
    dashes = iter(("dash", "dot"))
    for name, mine in runs.items():
        is_generic = name in GENERIC
        colour = GREY if is_generic else next(colours)
        line = {"color": colour, "width": 2, "dash": next(dashes) if is_generic else "solid"}
        means = [sum(volume_after(points_of(row), one, row["chance"]) for row in mine) / len(mine) for one in times]
        minutes_of = [one / 60 for one in times]
        figure.add_scatter(x=minutes_of, y=means, name=name, legendgroup=name, line=line, mode="lines", row=1, col=1)
        for row in (row for row in mine if row["seed"] == first):
            front = sorted(final_points(row), key=lambda point: point.ratio)
            figure.add_scatter(
                x=[point.ratio for point in front],
                y=[point.quality for point in front],
                name=name,
                legendgroup=name,
                showlegend=False,
                line={**line, "shape": "hv"},
                marker={"size": 6, "color": colour},
                mode="lines+markers",
                row=1,
                col=2,
            )
    base = next(row["base_quality"] for row in rows if row["seed"] == first)
    figure.add_hline(y=base, line={"color": "#000000", "width": 1, "dash": "dot"}, row=1, col=2)
    styled(figure, f"All methods, {minutes:g} minutes after the base model: SST-2, MiniLM-L6", headings=True)
    figure.update_xaxes(title_text="minutes", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="latency / base model's", range=[0, 1], row=1, col=2)
    return figure.update_yaxes(title_text="accuracy (base model: dotted)", range=[0.7, base + 0.01], row=1, col=2)
