"""How losses fell while something was trained, where a study stores that."""

from __future__ import annotations

import optuna
import plotly.graph_objects as go

from nasopt.errors import FigureError
from nasopt.records import queries
from nasopt.report.figures.style import COLOURS, styled
from nasopt.samplers.adabert import SUPERNET

VALIDATION_LOSSES = "validation_losses"
"""The attribute of a bayesian trial with its validation loss before training and after each epoch."""
MOST = 8
"""As many trials have a colour of their own."""


def curves(study: optuna.Study) -> go.Figure:
    """The losses of a supernet epoch by epoch (adabert), or of each trial on the validation split (bayesian).

    Raises:
        FigureError: the study stores neither.
    """
    supernet = queries.study_detail(study, SUPERNET)
    if supernet is not None:
        return _supernet(supernet["losses"], supernet["entropy"])
    trials = {
        trial.number: losses
        for trial in [*queries.complete_trials(study), *queries.complete_controls(study)]
        if (losses := queries.detail_of(trial, VALIDATION_LOSSES))
    }
    if not trials:
        raise FigureError(
            "the study stores no curves: adabert stores those of its supernet, bayesian the validation losses of its "
            "trials, other methods the last loss alone"
        )
    return _validation(trials)


def _supernet(losses: dict[str, list[float]], entropy: list[list[float]]) -> go.Figure:
    figure = go.Figure()
    for colour, (name, values) in zip(COLOURS, losses.items(), strict=False):
        figure.add_scatter(x=list(range(1, len(values) + 1)), y=values, name=name, line_color=colour)
    means = [sum(epoch) / len(epoch) for epoch in entropy]
    figure.add_scatter(
        x=list(range(1, len(means) + 1)),
        y=means,
        name="entropy of the operations, nats",
        line={"color": "#000000", "dash": "dot"},
    )
    figure.update_traces(mode="lines+markers", hovertemplate="epoch %{x}: %{y:.4g}")
    styled(figure, "Training of the supernet", height=400)
    figure.update_xaxes(title_text="epoch", dtick=max(1, len(means) // 10))
    return figure.update_yaxes(title_text="mean over the epoch")


def _validation(trials: dict[int, list[float]]) -> go.Figure:
    figure = go.Figure()
    shown = sorted(trials, key=lambda number: trials[number][-1])
    for number in sorted(trials):
        rank = shown.index(number)
        figure.add_scatter(
            x=list(range(len(trials[number]))),
            y=trials[number],
            mode="lines+markers",
            name=f"trial {number}",
            line={
                "color": COLOURS[rank % len(COLOURS)] if rank < MOST else "#C9C9C9",
                "width": 2 if rank < MOST else 1,
            },
            showlegend=rank < MOST,
            hovertemplate=f"trial {number}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
        )
    styled(figure, "Loss on the validation split", height=420)
    figure.update_xaxes(title_text="epoch", dtick=1 if max(map(len, trials.values())) <= 12 else None)
    return figure.update_yaxes(title_text="loss")
