"""Whether the members of a Pareto front beat their controls: the best one of their own cost or depth, and TF-IDF."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nasopt.methods.base import Method
from nasopt.objective import make_method
from nasopt.report.comparison import Difference, class_difference, number_difference
from nasopt.report.records import Record
from nasopt.report.tables import PROVENANCE_COLUMNS, trial_record
from nasopt.storage import attributes
from nasopt.storage.predictions import TFIDF, Predictions, PredictionStore
from nasopt.study import OpenStudy

LATENCY_TOLERANCE = 0.02
"""A control counts as no slower than a member up to this: two measurements of one model differ by as much."""


class Comparisons:
    """Comparisons of the trials of one study. Reads each trial's predictions once."""

    def __init__(self, opened: OpenStudy) -> None:
        self._metric = opened.config.task.metric
        self._method = make_method(opened.config)
        self._base = attributes.base_of(opened.study)
        self._tfidf = opened.study.user_attrs.get(attributes.TFIDF)
        self.controls = attributes.complete_controls(opened.study)
        self._read = lru_cache(maxsize=None)(PredictionStore(opened.folder).read)
        self.without_predictions: set[int] = set()
        """Trials that should have been compared but have none stored."""

    def record(self, member: FrozenTrial) -> Record | None:
        """How a member of the front compares with its best control; None for the base model, or if it has none.

        `difference` is the member's quality minus the control's, `low` and `high` its 95 % interval (None where
        predictions are not stored; the verdict then is `unknown`).
        """
        control = self._best_control(member)
        if control is None:
            return None
        interval = self._difference(member, control.number)
        return {
            "control": control.user_attrs[attributes.CONTROL],
            "trial": control.number,
            "difference": interval.value if interval else member.values[0] - control.values[0],
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "verdict": interval.verdict if interval else "unknown",
        }

    def is_member(self, trial: FrozenTrial) -> bool:
        """Whether the trial was found by the search."""
        return self._base is None or trial.number != self._base.number

    def tfidf_line(self, members: Sequence[FrozenTrial]) -> str | None:
        """Which members do not beat TF-IDF, in a sentence; None if it was not fitted."""
        if self._tfidf is None:
            return None
        differences = [self._difference(member, TFIDF) for member in members]
        if not members or None in differences:
            return None
        beaten = [trial.number for trial, item in zip(members, differences, strict=True) if item and item.low <= 0]
        line = f"TF-IDF and a linear model reach {self._tfidf['quality']:.4f}"
        if not beaten:
            return f"{line}; every member beats them"
        return f"{line}; not shown to beat them: {_trials(beaten)}"

    def _best_control(self, member: FrozenTrial) -> FrozenTrial | None:
        if not self.is_member(member):
            return None
        found = [control for control in self.controls if is_comparable(member, control, self._method)]
        return max(found, key=lambda control: (control.values[0], -control.number), default=None)

    def _difference(self, member: FrozenTrial, other: int | str) -> Difference | None:
        """None where the predictions of one of them are not stored, or are of other data."""
        mine, theirs = self._read(member.number), self._read(other)
        self.without_predictions |= {
            name for name, found in ((member.number, mine), (other, theirs)) if found is None and isinstance(name, int)
        }
        if mine is None or theirs is None or mine.split != theirs.split:
            return None
        return difference(mine, theirs, self._metric)


def is_comparable(member: FrozenTrial, control: FrozenTrial, method: Method) -> bool:
    """Whether a control has the member's depth and precision, or is no more expensive in any objective."""
    depth = method.depth(member.params)
    alike = attributes.precision_of(member) == attributes.precision_of(control)
    if alike and depth is not None and depth == control.user_attrs.get(attributes.CONTROL_DEPTH):
        return True
    *latencies, memory = zip(control.values[1:], member.values[1:], strict=True)
    as_fast = all(its <= mine * (1 + LATENCY_TOLERANCE) for its, mine in latencies)
    return as_fast and memory[0] <= memory[1]


def difference(mine: Predictions, theirs: Predictions, metric: str) -> Difference:
    """The difference of the metric on the same examples."""
    if mine.classes:
        columns = (mine.labels, mine.values, theirs.values)
        return class_difference(*columns, classes=mine.classes, metric=metric)
    return number_difference(mine.labels, mine.values, theirs.values, metric=metric)


def pareto_records(comparisons: Comparisons, front: Sequence[FrozenTrial], names: Sequence[str]) -> list[Record]:
    """Records of the members of the front, with their comparisons."""
    return [{**trial_record(trial, names), "comparison": comparisons.record(trial)} for trial in front]


def with_verdict(record: Record, is_member: bool) -> Record:
    """The record of a member with its comparison in words, for tables."""
    found = record["comparison"]
    if found is None:
        return {**record, "verdict": "no comparable control" if is_member else "the base model"}
    interval = "unknown" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
    words = {"better": "beats it", "worse": "is beaten by it", "unknown": "unknown: no predictions stored"}
    return {
        **record,
        "best_control": f"{found['control']} (trial {found['trial']})",
        "difference": f"{found['difference']:+.4f} ({interval})",
        "verdict": words.get(found["verdict"], "does not beat it: no difference shown"),
    }


VERDICT_COLUMNS = {
    "best control": "best_control",
    "difference (95 % interval)": "difference",
    "verdict": "verdict",
}


def summary_lines(
    comparisons: Comparisons, front: Sequence[FrozenTrial], records: Sequence[Record], name: str
) -> list[str]:
    """What the comparisons come to, in sentences."""
    members = [trial for trial in front if comparisons.is_member(trial)]
    if not members:
        return []
    if not comparisons.controls:
        return [f"run `nasopt study controls {name}` to see whether the search found anything"]
    found = [record["comparison"] for record in records if record["comparison"] is not None]
    verdicts = [item["verdict"] for item in found]
    better = verdicts.count("better")
    do = "beats" if better == 1 else "beat"
    lines = [f"{better} of {len(members)} members {do} the best control of their own cost or depth"]
    rest = {
        "do not (no difference shown)": verdicts.count("no difference shown"),
        "do worse": verdicts.count("worse"),
        "cannot be told (predictions are not stored)": verdicts.count("unknown"),
        f"have no comparable control (run `nasopt study controls {name}`)": len(members) - len(found),
    }
    lines[0] += "".join(f"; {count} {words}" for words, count in rest.items() if count)
    tfidf = comparisons.tfidf_line(members)
    if tfidf is not None:
        lines.append(tfidf)
    if comparisons.without_predictions:
        lines.append(f"no predictions are stored of {_trials(sorted(comparisons.without_predictions))}")
    return lines


def control_records(opened: OpenStudy) -> list[Record]:
    """Every control of a study that has ended, by depth and label, and TF-IDF."""
    study = opened.study
    names = study.metric_names or []
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    ended = [
        trial
        for trial in trials
        if attributes.CONTROL in trial.user_attrs and not trial.user_attrs.get(attributes.INTERRUPTED)
    ]
    records = [_control_record(trial, names) for trial in ended]
    records.sort(key=lambda record: (record["depth"] or 0, record["epochs"] or 0, record["precision"] or ""))
    tfidf = study.user_attrs.get(attributes.TFIDF)
    if tfidf is not None:
        empty = dict.fromkeys(records[0]) if records else {}
        values = {"quality": tfidf["quality"]}
        records.append({**empty, "state": "COMPLETE", "values": values, "params": {}, "control": TFIDF})
    return records


def _control_record(trial: FrozenTrial, names: Sequence[str]) -> Record:
    recipe: dict[str, Any] = trial.user_attrs.get(attributes.CONTROL_RECIPE, {})
    record = trial_record(trial, names)
    trained = [recipe.get(kind) for kind in ("finetune_epochs", "distill_epochs")]
    return {
        **record,
        "precision": record["precision"] or recipe.get("precision"),
        "depth": trial.user_attrs.get(attributes.CONTROL_DEPTH),
        "epochs": None if None in trained else sum(item for item in trained if item is not None),
    }


def control_columns(names: Sequence[str]) -> dict[str, str]:
    """Columns of a table of controls."""
    values = {name: f"values.{name}" for name in names}
    return {"control": "control", "trial": "number", "state": "state", **values} | {
        "depth": "depth",
        "precision": "precision",
        "epochs": "epochs",
        **PROVENANCE_COLUMNS,
        "failure": "failure",
    }


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
