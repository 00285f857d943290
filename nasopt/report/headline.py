"""What a study found, in two sentences with numbers."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from nasopt.config.task import points_of
from nasopt.records import queries
from nasopt.records.latency import MeasuredLatency
from nasopt.records.trial import TrialRecord
from nasopt.report.printing import Record
from nasopt.report.verdicts import Comparisons
from nasopt.study.opening import OpenStudy

MOST_POINTS = 1.0
"""The headline is about the fastest member that is measured to lose at most this many points of the base's quality."""


def headline(opened: OpenStudy, comparisons: Comparisons, records: Sequence[Record]) -> Record:
    """What the study found: `sentences`, and the `trial` that they are about (None where there is no member).

    Args:
        opened: the study.
        comparisons: those of its front.
        records: of the front's trials, with their comparisons, as :func:`nasopt.report.verdicts.pareto_records` makes.
    """
    by_number = {record["number"]: record for record in records}
    members = [(trial, by_number[trial.number]) for trial in comparisons.members if trial.number in by_number]
    if not members:
        return {"trial": None, "sentences": ["The search has no final member of the front but the base model yet."]}
    near = [pair for pair in members if pair[1]["against_base"] and pair[1]["against_base"]["points"] >= -MOST_POINTS]
    if near:
        trial, record = min(near, key=lambda pair: pair[0].values[1])
        why = f"the fastest member of the front that loses at most {MOST_POINTS:g} point of {_metric(opened)}"
    else:
        trial, record = max(members, key=lambda pair: pair[0].values[0])
        why = f"the best member of the front: none is within {MOST_POINTS:g} point of the base model"
    return {
        "trial": trial.number,
        "sentences": [
            _found(opened, trial, record, why),
            _proved(opened, comparisons, records, record),
            *_dominated(record),
        ],
    }


def _dominated(record: Record) -> list[str]:
    """Whether a model from outside makes the member needless."""
    found = record["outside"]
    if found is None or not found["dominated"]:
        return []
    return [
        f"But {found['model']} (trial {found['trial']}), a model from outside, is at least as good, as fast and as "
        f"small as trial {record['number']}."
    ]


def _metric(opened: OpenStudy) -> str:
    return opened.config.task.metric.replace("_", " ")


def _found(opened: OpenStudy, trial: FrozenTrial, record: Record, why: str) -> str:
    stored = TrialRecord.of(trial)
    shape = (
        f"{stored.architecture}, {queries.precision_of(trial)}" if stored.architecture else "its shape is not stored"
    )
    found = record["against_base"]
    if found is None:
        return f"Trial {trial.number} ({shape}) is {why}."
    latencies = [_faster(name, ratio, trial) for name, ratio in found["faster"].items()]
    values = [*latencies, _ratio(found["smaller"], "smaller", "larger")]
    interval = "no interval: no predictions are stored"
    if found["low"] is not None:
        interval = f"95 % interval {found['low']:+.1f} to {found['high']:+.1f}"
    return (
        f"Trial {trial.number} ({shape}), {why}, is {' and '.join(values)} than the base model, at "
        f"{found['points']:+.1f} points of {_metric(opened)} ({interval})."
    )


def _faster(name: str, ratio: float, trial: FrozenTrial) -> str:
    """`2.79x faster (2.70 to 2.88)`, with the words that a prediction needs."""
    words = _ratio(ratio, "faster", "slower")
    latency = queries.latencies_of(trial).get(name)
    where = "" if name == "latency_ms" else f" at {name.removeprefix('latency_ms_')}"
    if isinstance(latency, MeasuredLatency):
        # The objective is the ratio times the base model's latency at trial 0: its interval is that of the ratio.
        low, high = ratio * latency.ratio / latency.ratio_high, ratio * latency.ratio / latency.ratio_low
        low, high = (low, high) if ratio >= 1 else (1 / high, 1 / low)
        return f"{words}{where} ({low:.2f} to {high:.2f})"
    return f"{words}{where}{'' if latency is None else latency.caveat}"


def _ratio(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.2f}x {more}" if ratio >= 1 else f"{1 / ratio:.2f}x {less}"


def _proved(opened: OpenStudy, comparisons: Comparisons, records: Sequence[Record], chosen: Record) -> str:
    """Whether the search was worth it, by the study's own controls."""
    if not comparisons.controls:
        return (
            "No controls have been trained, so nothing here shows that a search was needed: "
            f"`nasopt study controls {opened.name}` trains them."
        )
    found = [record["comparison"] for record in records if record["comparison"] is not None]
    better = sum(item["verdict"] == "better" for item in found)
    line = f"{better} of {len(comparisons.members)} members beat the best control of their own cost or depth"
    mine, scale = chosen["comparison"], points_of(opened.config.task.metric)
    if mine is None:
        return f"{line}; trial {chosen['number']} has no control to compare with."
    difference = f"{scale * mine['difference']:+.1f} points from its own, {mine['control']}"
    if mine["low"] is None:
        return f"{line}; trial {chosen['number']} is {difference} (no interval: no predictions are stored)."
    low, high = scale * mine["low"], scale * mine["high"]
    return f"{line}; trial {chosen['number']} is {difference} (95 % interval {low:+.1f} to {high:+.1f})."
