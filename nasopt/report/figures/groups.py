"""The trials of a study as figures tell them apart, and what is said of each."""

from __future__ import annotations

import html
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nasopt.records import queries
from nasopt.records.latency import MeasuredLatency
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord


@dataclass(frozen=True)
class Axis:
    """One objective as an axis.

    Attributes:
        name: the objective's.
        index: its place among a trial's values.
        label: the words for the axis, with the unit.
        digits: decimals that are shown of a value.
        is_minimised: whether less is better.
    """

    name: str
    index: int
    label: str
    digits: int
    is_minimised: bool

    def value(self, trial: FrozenTrial) -> float:
        """The objective's value of a complete trial."""
        return float(trial.values[self.index])

    def in_words(self, trial: FrozenTrial) -> str:
        """The value with its name and unit."""
        label, _, unit = self.label.partition(", ")
        return f"{label} {self.value(trial):.{self.digits}f} {unit}".strip()


def axes_of(study: optuna.Study) -> list[Axis]:
    """The objectives of a study, quality first."""
    configuration = StudyRecord.of(study).configuration or {}
    metric = (configuration.get("task") or {}).get("metric") or "quality"
    names = study.metric_names or _names(configuration, len(study.directions))
    return [
        Axis(name, index, _label(name, metric), _digits(name), direction == StudyDirection.MINIMIZE)
        for index, (name, direction) in enumerate(zip(names, study.directions, strict=True))
    ]


def _names(configuration: object, count: int) -> list[str]:
    """The objectives' names where Optuna has none: optuna-dashboard drops them when it renames a study."""
    latencies = configuration.get("latency", []) if isinstance(configuration, dict) else []
    shown = ["latency_ms" if item.get("name") is None else f"latency_ms_{item['name']}" for item in latencies]
    found = ["quality", *shown, "memory_mb"]
    return found if len(found) == count else [f"objective {index}" for index in range(count)]


def _label(name: str, metric: str) -> str:
    if name == "quality":
        return metric.replace("_", " ")
    if name == "memory_mb":
        return "memory, MB"
    if name.startswith("latency_ms"):
        return f"{name.replace('latency_ms', 'latency').replace('_', ' ', 1)}, ms"
    return name


def _digits(name: str) -> int:
    return 4 if name == "quality" else 2


@dataclass(frozen=True)
class Group:
    """Trials that share a mark.

    Attributes:
        name: for the legend.
        trials: complete ones.
        colour, symbol, size: of the mark; colours differ for the colour-blind, too (Okabe and Ito 2008).
    """

    name: str
    trials: tuple[FrozenTrial, ...]
    colour: str
    symbol: str
    size: int

    @property
    def symbol_3d(self) -> str:
        """The mark in three dimensions, where plotly has few."""
        return {"star": "diamond", "triangle-up-open": "square-open"}.get(self.symbol, self.symbol)


FRONT = "Pareto front"
BASE = "base model"
OTHER = "other trials"
PROVISIONAL = "provisional"
CONTROLS = "controls"
OUTSIDE = "outside models"


def groups_of(study: optuna.Study) -> list[Group]:
    """The complete trials of a study in groups that are not empty; those that come later are drawn above.

    The base model is a group of its own, whether or not it is on the front.
    """
    base, front = queries.base_of(study), {trial.number for trial in queries.pareto_front(study)}
    found: dict[str, list[FrozenTrial]] = {name: [] for name in (OTHER, PROVISIONAL, CONTROLS, OUTSIDE, FRONT, BASE)}
    for trial in queries.complete_trials(study):
        if base is not None and trial.number == base.number:
            found[BASE].append(trial)
        elif queries.is_provisional(trial):
            found[PROVISIONAL].append(trial)
        else:
            found[FRONT if trial.number in front else OTHER].append(trial)
    for trial in queries.complete_controls(study):
        found[CONTROLS if queries.outside_of(trial) is None else OUTSIDE].append(trial)
    return [Group(name, tuple(trials), *MARKS[name]) for name, trials in found.items() if trials]


MARKS: dict[str, tuple[str, str, int]] = {
    OTHER: ("#9A9A9A", "circle", 7),
    PROVISIONAL: ("#E69F00", "diamond-open", 9),
    CONTROLS: ("#D55E00", "triangle-up-open", 10),
    OUTSIDE: ("#009E73", "square-open", 11),
    FRONT: ("#0072B2", "circle", 10),
    BASE: ("#000000", "star", 14),
}
"""Colour, symbol and size of each group."""


def hover_text(trial: FrozenTrial, axes: list[Axis], group: str) -> str:
    """What is said of a trial under the pointer, as plotly's HTML: its shape, values, and how they were obtained."""
    record = TrialRecord.of(trial)
    kind = group
    if record.control is not None:
        kind = record.control.label if group == OUTSIDE else f"control {record.control.label}"
    lines = [f"<b>trial {trial.number}</b>, {html.escape(kind)}"]
    if record.architecture:
        lines += _wrapped(html.escape(record.architecture))
    made = [record.precision, trial.params.get("training"), _parent(record.parent)]
    lines.append(", ".join(html.escape(str(part)) for part in made if part))
    for axis in axes:
        lines.append(html.escape(axis.in_words(trial)))
        latency = (record.latencies or {}).get(axis.name)
        if isinstance(latency, MeasuredLatency):
            lines.append(f"  {latency.ratio_words} of the base model's, measured")
        elif latency is not None:
            lines.append(f"  {html.escape(latency.source_words)}")
    return "<br>".join(line for line in lines if line)


def names_in(group: Group) -> list[str] | None:
    """The name of each model from outside, as plotly's HTML, which stands beside its mark; None for other groups."""
    if group.name != OUTSIDE:
        return None
    return [html.escape(queries.label_of(trial) or "") for trial in group.trials]


def _parent(number: int | None) -> str | None:
    return None if number is None else f"from trial {number}"


def _wrapped(text: str, width: int = 44) -> list[str]:
    """Lines that a telephone has room for."""
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > width and lines[-1]:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def interval_of(trial: FrozenTrial, name: str) -> tuple[float, float] | None:
    """The ends of the 95 % interval of a measured latency in ms, or of a predicted one; None for other objectives.

    The interval is that of the ratio to the base model, times the base model's latency at trial 0.
    """
    latency = queries.latencies_of(trial).get(name)
    if latency is None:
        return None
    if isinstance(latency, MeasuredLatency):
        scale = latency.value_ms / latency.ratio
        return scale * latency.ratio_low, scale * latency.ratio_high
    scale = latency.value_ms / latency.median_ms
    return scale * latency.low_ms, scale * latency.high_ms
