"""The hypervolume as a search goes on, over its trials and over the time that they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import optuna
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import FigureError
from nasopt.numerics.pareto import hypervolume as volume_of
from nasopt.numerics.pareto import pareto_mask
from nasopt.records import queries
from nasopt.report.figures.groups import PROVISIONAL, axes_of
from nasopt.report.figures.style import COLOURS, styled

MARKED = 100
"""Lines of at most so many points have a mark at each trial."""


@dataclass(frozen=True)
class Progress:
    """The hypervolume after each complete trial of a search, in the order in which they ended.

    Attributes:
        numbers: of the trials.
        counts: how many trials of the search had been completed by then, provisional ones among them.
        seconds: how long trials had been running by then; pauses do not count, and parallel ones count once.
        volumes: the hypervolume of the trials so far, in the product of the objectives' units.
    """

    numbers: list[int]
    counts: list[int]
    seconds: list[float]
    volumes: list[float]


def progress_of(study: optuna.Study, *, provisional: bool = False) -> Progress:
    """The hypervolume of the final trials as they came; the last one is that of `nasopt study show`.

    Args:
        study: the study.
        provisional: whether provisional trials count, too.
    """
    reference = queries.reference_point(study)
    trials = queries.feasible(queries.complete_trials(study) if provisional else queries.final_trials(study))
    ended = sorted((trial for trial in trials if trial.datetime_complete is not None), key=_end)
    if reference is None or not ended:
        return Progress([], [], [], [])
    corner = np.array([-reference[0], *reference[1:]])
    points = queries.minimised(ended, study)
    numbers = [trial.number for trial in ended]
    every = sorted((trial for trial in queries.complete_trials(study) if trial.datetime_complete is not None), key=_end)
    places = {trial.number: place for place, trial in enumerate(every, 1)}
    return Progress(numbers, [places[number] for number in numbers], _busy(study, ended), _volumes(points, corner))


def _end(trial: FrozenTrial) -> tuple[datetime, int]:
    assert trial.datetime_complete is not None
    return trial.datetime_complete, trial.number


def _volumes(points: NDArray[np.float64], corner: NDArray[np.float64]) -> list[float]:
    """The hypervolume of the first, the first two, ... points; computed only where the front grows."""
    best, volumes = points[:0], [0.0]
    for point in points:
        if (best <= point).all(axis=1).any():
            volumes.append(volumes[-1])
            continue
        best = np.vstack([best, point])
        best = best[pareto_mask(best)]
        volumes.append(volume_of(best, corner))
    return volumes[1:]


def _busy(study: optuna.Study, ended: Sequence[FrozenTrial]) -> list[float]:
    """For each trial, the seconds before its end in which at least one trial of the search was running."""
    states = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
    spans = sorted(
        (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
        for trial in study.get_trials(deepcopy=False, states=states)
        if trial.datetime_start and trial.datetime_complete and not queries.is_control(trial)
    )
    merged: list[list[float]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    starts, ends = np.array(merged).T
    before = np.concatenate([[0.0], np.cumsum(ends - starts)])
    found = []
    for trial in ended:
        moment = _end(trial)[0].timestamp()
        span = int(np.searchsorted(starts, moment, side="right")) - 1
        found.append(float(before[max(span, 0)] + min(moment, ends[span]) - starts[span]) if span >= 0 else 0.0)
    return found


def hypervolume(study: optuna.Study, over: Literal["trials", "time"] = "trials") -> go.Figure:
    """The hypervolume as the search goes on.

    Args:
        study: the study.
        over: `trials`, or `time`: how long trials have been running, without pauses.

    Raises:
        FigureError: the base model or any other trial is not complete, or `over` is neither.

    Example:
        >>> figures.hypervolume(study, over="time").write_html("hypervolume.html")
    """
    if over not in ("trials", "time"):
        raise FigureError(f"the hypervolume is drawn over `trials` or over `time`, not over {over!r}")
    final = progress_of(study)
    if not final.volumes:
        raise FigureError("there is no hypervolume before the base model and another trial are complete")
    figure = go.Figure()
    lines = {"final trials": (final, COLOURS[0], "solid")}
    if any(queries.is_provisional(trial) for trial in queries.complete_trials(study)):
        lines |= {f"{PROVISIONAL} ones, too": (progress_of(study, provisional=True), COLOURS[4], "dot")}
    longest = max(line.seconds[-1] for line, _, _ in lines.values())
    unit, label = _unit(longest)
    for name, (line, colour, dash) in lines.items():
        places = _corners(line.volumes)
        xs = [line.counts[place] if over == "trials" else line.seconds[place] / unit for place in places]
        figure.add_scatter(
            x=xs,
            y=[line.volumes[place] for place in places],
            mode="lines+markers" if len(xs) <= MARKED else "lines",
            marker={"size": 5},
            line={"shape": "hv", "color": colour, "dash": dash, "width": 2},
            name=name,
            showlegend=len(lines) > 1,
            customdata=[line.numbers[place] for place in places],
            hovertemplate="after trial %{customdata}: %{y:.6g}<extra></extra>",
        )
    units = " x ".join(axis.label.partition(", ")[2] or axis.label for axis in axes_of(study))
    styled(figure, f"Hypervolume over {over}", height=380)
    figure.update_xaxes(
        title_text="complete trials" if over == "trials" else f"running time, {label}", rangemode="tozero"
    )
    return figure.update_yaxes(title_text=f"hypervolume, {units}", rangemode="tozero")


def _corners(volumes: Sequence[float]) -> list[int]:
    """The places of the points that a line of steps needs: all of a short one, steps and ends of a long one."""
    last = len(volumes) - 1
    if last < MARKED:
        return list(range(last + 1))
    return [place for place in range(last + 1) if place in (0, last) or volumes[place] != volumes[place - 1]]


def _unit(seconds: float) -> tuple[float, str]:
    """The seconds of the unit that a time is shown in, and its name."""
    if seconds < 180:
        return 1.0, "s"
    return (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")
