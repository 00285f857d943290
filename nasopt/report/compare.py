"""Two studies of one task, side by side: what each reached, with what, and where their fronts meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from rich.console import Console

from nasopt.errors import StudyFileError
from nasopt.numerics.pareto import hypervolume
from nasopt.records import queries
from nasopt.records.names import REFERENCE_MARGIN
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.report.figures.progress import progress_of
from nasopt.report.printing import Format, Record, print_record, print_records
from nasopt.study.opening import OpenStudy

Points = NDArray[np.float64]
LEVELS = 8
"""Latencies at which the best qualities are compared."""


@dataclass(frozen=True)
class Side:
    """One of the studies.

    Attributes:
        opened: the study.
        front: its final front, the base model included where it is on it.
        scale: what each objective is divided by, shape (objectives,).
    """

    opened: OpenStudy
    front: Sequence[FrozenTrial]
    scale: Points

    @property
    def points(self) -> Points:
        """The front, shape (members, objectives), quality first and not negated; in the unit of the comparison."""
        return np.array([trial.values for trial in self.front]).reshape(len(self.front), len(self.scale)) / self.scale


def compare(a: OpenStudy, b: OpenStudy) -> Record:
    """Compares the final fronts of two studies.

    Latency and memory are shares of each study's own base model where both have the same one, because a machine's pace
    differs from day to day; else they are in ms and MB. The hypervolume is up to quality 0 and 1.1 times the (slower,
    larger) base model.

    Raises:
        StudyFileError: their objectives, data or devices differ, or one has no base model yet.
    """
    bases = [_checked_base(a), _checked_base(b)]
    _check_alike(a, b, bases)
    same = (
        queries.parameters_of(bases[0]) == queries.parameters_of(bases[1])
        and bases[0].values[-1] == bases[1].values[-1]
    )
    sides = [
        Side(
            opened,
            queries.pareto_front(opened.study),
            np.array([1.0, *base.values[1:]]) if same else np.ones(len(base.values)),
        )
        for opened, base in zip((a, b), bases, strict=True)
    ]
    scaled = [np.array(base.values) / side.scale for base, side in zip(bases, sides, strict=True)]
    reference = np.max(scaled, axis=0)[1:] * REFERENCE_MARGIN
    first, second = sides
    return {
        "unit": "shares of the base model" if same else "ms and MB",
        "reference": [0.0, *reference.tolist()],
        "studies": [
            {**_effort(side.opened), "hypervolume": _volume(side.points, reference), "covered": _covered(side, other)}
            for side, other in ((first, second), (second, first))
        ],
        "attainment": _attainment(first, second),
        "nearest": _nearest(first, second),
    }


def _checked_base(opened: OpenStudy) -> FrozenTrial:
    base = queries.base_of(opened.study)
    if base is None:
        raise StudyFileError(f"the study {opened.name!r} has no base model yet: run `nasopt study optimize` first")
    return base


def _check_alike(a: OpenStudy, b: OpenStudy, bases: Sequence[FrozenTrial]) -> None:
    """Refuses studies whose values mean different things."""
    records = [StudyRecord.of(opened.study) for opened in (a, b)]
    sources = [[item.identity for item in queries.latencies_of(base).values()] for base in bases]
    pairs = {
        "objectives": (a.config.metric_names, b.config.metric_names),
        "metrics": (a.config.task.metric, b.config.task.metric),
        "data": tuple((record.data or {}).get("dataset") for record in records),
        "splits": (a.config.task.dataset.splits, b.config.task.dataset.splits),
        "latencies": (sources[0], sources[1]),
    }
    for what, (mine, other) in pairs.items():
        if mine != other:
            raise StudyFileError(f"{a.name!r} and {b.name!r} cannot be compared: their {what} differ ({mine}, {other})")


def _effort(opened: OpenStudy) -> Record:
    """What a study has cost so far."""
    trials = queries.complete_trials(opened.study)
    trained = [TrialRecord.of(trial).training_result or {} for trial in trials]
    seconds = progress_of(opened.study, provisional=True).seconds
    return {
        "name": opened.name,
        "method": opened.config.method,
        "trials": len(queries.finished_trials(opened.study)),
        "front": len(queries.pareto_front(opened.study)),
        "running_s": seconds[-1] if seconds else 0.0,
        "training_s": float(sum(result.get("seconds", 0.0) for result in trained)),
    }


def _minimised(points: Points) -> Points:
    signed: Points = points * np.array([-1.0, *[1.0] * (points.shape[1] - 1)])
    return signed


def _volume(points: Points, reference: Points) -> float:
    return hypervolume(_minimised(points), [0.0, *reference]) if len(points) else 0.0


def _covered(side: Side, other: Side) -> float | None:
    """The share of a front that the other one equals or betters in every objective; None where it is empty."""
    if not side.front:
        return None
    mine, theirs = _minimised(side.points), _minimised(other.points)
    pairs = (theirs[None] <= mine[:, None]).all(axis=2).reshape(len(mine), len(theirs))  # shape (mine, theirs)
    return float(np.mean(np.any(pairs, axis=1)))


def _attainment(a: Side, b: Side) -> list[Record]:
    """The best quality of each front within latencies evenly spaced in the logarithm."""
    every = np.concatenate([side.points[:, 1] for side in (a, b) if side.front])
    if not len(every):
        return []
    levels = np.geomspace(every.min(), every.max(), LEVELS) if every.max() > every.min() else every[:1]
    levels[-1] = every.max()  # rounding must not leave out the slowest
    rows = []
    for level in levels:
        best = [_best_within(side, float(level)) for side in (a, b)]
        mine, its = (None if trial is None else float(trial.values[0]) for trial in best)
        rows.append(
            {
                "latency": float(level),
                "a": mine,
                "b": its,
                "difference": None if mine is None or its is None else mine - its,
            }
        )
    return rows


def _best_within(side: Side, level: float) -> FrozenTrial | None:
    within = [trial for trial, point in zip(side.front, side.points, strict=True) if point[1] <= level]
    return max(within, key=lambda trial: trial.values[0], default=None)


def _nearest(a: Side, b: Side) -> list[Record]:
    """For each member of the first front the nearest of the second, with objectives scaled to the range of both."""
    if not a.front or not b.front:
        return []
    width = np.ptp(np.concatenate([a.points, b.points]), axis=0)
    width = np.where(width > 0, width, 1.0)
    names = a.opened.config.metric_names
    rows = []
    for trial, point in sorted(zip(a.front, a.points, strict=True), key=lambda pair: -pair[0].values[0]):
        distances = np.linalg.norm((b.points - point) / width, axis=1)
        place = int(distances.argmin())
        rows.append(
            {
                "a": trial.number,
                "b": b.front[place].number,
                "difference": dict(zip(names, (point - b.points[place]).tolist(), strict=True)),
                "distance": float(distances[place]),
            }
        )
    return rows


def print_comparison(record: Record, form: Format, console: Console) -> list[str]:
    """Prints a comparison on stdout, and returns what its numbers are, in sentences.

    Args:
        record: what :func:`compare` found.
        form: `json` is the record; `csv` the attainment alone, which is one table.
        console: for tables.
    """
    if form == "json":
        print_record(record, form, console)
        return []
    a, b = (study["name"] for study in record["studies"])
    attainment = {
        "latency at most": "latency",
        f"quality of {a}": "a",
        f"quality of {b}": "b",
        "difference": "difference",
    }
    if form == "csv":
        print_records(record["attainment"], form, attainment, console)
        return []
    heads = ("name", "method", "trials", "running_s", "training_s", "front", "hypervolume", "covered")
    print_records(record["studies"], form, {head: head for head in heads}, console)
    print(file=console.file)
    print_records(record["attainment"], form, attainment, console)
    print(file=console.file)
    names = record["nearest"][0]["difference"] if record["nearest"] else ()
    nearest = {f"trial of {a}": "a", f"nearest of {b}": "b"} | {name: f"difference.{name}" for name in names}
    print_records(record["nearest"], form, nearest, console)
    corner = ", ".join(f"{value:g}" for value in record["reference"])
    return [
        f"latency and memory in {record['unit']}; hypervolume up to ({corner}); covered: the share of the front "
        "that the other one equals or betters in every objective; differences are the first minus the second"
    ]
