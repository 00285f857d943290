"""Tells whether members of a Pareto front beat their controls: the best one of their own cost or depth, and TF-IDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from nasopt.config.task import points_of
from nasopt.methods.controls import Controls
from nasopt.methods.registry import make_method
from nasopt.numerics.comparison import Difference, class_difference, number_scores, score_difference
from nasopt.numerics.resampling import FloatArray
from nasopt.records import queries
from nasopt.records.study import StudyRecord
from nasopt.report.printing import Format, Record, print_records
from nasopt.report.tables import PROVENANCE_COLUMNS, trial_columns, trial_record
from nasopt.storage.validation_predictions import REPLICATES, TFIDF, Predictions, PredictionStore
from nasopt.study.opening import OpenStudy

LATENCY_TOLERANCE = 0.02
"""A control counts as no slower than a member up to this: two measurements of one model differ by as much."""


VERBS = {"does": "do", "has": "have"}


class Comparisons:
    """The members of a study's Pareto front, compared with their controls.

    Args:
        opened: the study.
        front: its Pareto front, with or without the base model.

    Attributes:
        controls: the study's complete controls, but for models from outside.
        outside: complete models from outside, which have no comparable cost or depth but their latency.
        members: the final trials of the front that the search has found; provisional ones have no controls.
        knee: number of the front's knee (:func:`nasopt.records.queries.knee_of`); None if there is no member.
        without_predictions: numbers of trials that should have been compared but have no predictions stored.
    """

    def __init__(self, opened: OpenStudy, front: Sequence[FrozenTrial]) -> None:
        base, family = queries.base_of(opened.study), make_method(opened.config).controls
        self._base, self._study = base, opened.study
        self.outside = queries.outside_models(opened.study)
        outside = {trial.number for trial in self.outside}
        self.controls = [trial for trial in queries.complete_controls(opened.study) if trial.number not in outside]
        knee = queries.knee_of(opened.study, front)
        self.knee = None if knee is None else knee.number
        found = [trial for trial in front if base is None or trial.number != base.number]
        self.members = [trial for trial in found if not queries.is_provisional(trial)]
        self._best = {member.number: best_control(member, self.controls, family) for member in self.members}
        self._best_outside = {member.number: best_outside(member, self.outside) for member in self.members}
        self._metric = opened.config.task.metric
        self._tfidf = StudyRecord.of(opened.study).tfidf if self.controls else None
        rivals = [control.number for control in self._best.values() if control is not None]
        names: list[int | str] = [*(trial.number for trial in found), *rivals, *([TFIDF] if self._tfidf else [])]
        names += outside
        if base is not None and (found or outside):
            names.append(base.number)
        # Predictions in another study's folder are of other models.
        store = PredictionStore(opened.folder) if opened.place.standing().is_own else None
        stored = {name: None if store is None else store.read(name) for name in dict.fromkeys(names)}
        self._stored = {name: found for name, found in stored.items() if found is not None}
        needed = {*self._best, *rivals} if rivals or self._tfidf is not None else set()
        if any(self._best_outside.values()):
            needed |= {*self._best, *(trial.number for trial in self._best_outside.values() if trial is not None)}
        self.without_predictions = sorted(number for number in needed if number not in self._stored)
        self._scores = _scores_of_numbers(self._stored, self._metric)

    def record(self, trial: FrozenTrial) -> Record | None:
        """Compares a trial of the front with its best control; None for the base model, or if it has none.

        `difference` is the trial's quality minus the control's, `low` and `high` its 95 % interval (None where
        predictions are not stored; the verdict then is `unknown`).
        """
        control = self._best.get(trial.number)
        return None if control is None else {"control": queries.label_of(control), **self._against(trial, control)}

    def against_outside(self, trial: FrozenTrial) -> Record | None:
        """Compares a trial of the front with the best model from outside that is no slower; None for the base model, or
        if there is none. `dominated`: that model is no worse in any objective, and better in one."""
        rival = self._best_outside.get(trial.number)
        if rival is None:
            return None
        name, dominated = queries.label_of(rival), dominates(rival, trial)
        return {"model": name, **self._against(trial, rival), "dominated": dominated}

    def _against(self, trial: FrozenTrial, other: FrozenTrial) -> Record:
        found = self._difference(trial.number, other.number)
        return {
            "trial": other.number,
            "difference": found.value if found else trial.values[0] - other.values[0],
            "low": found.low if found else None,
            "high": found.high if found else None,
            "verdict": found.verdict if found else "unknown",
        }

    def against_base(self, trial: FrozenTrial, names: Sequence[str]) -> Record | None:
        """Compares a trial of the front with the base model; None for the base model itself.

        `faster` (by latency) and `smaller` are ratios; `faster_by_structure` is what the same weights reach in the base
        model's precision, where there is such a trial; `points` is the difference in quality, in points, `low` and
        `high` its 95 % interval (None where predictions are not stored).
        """
        base = self._base
        if base is None or trial.number == base.number:
            return None
        found, scale = self._difference(trial.number, base.number), points_of(self._metric)
        same = self._in_base_precision(trial)
        return {
            "faster": _faster(base, trial, names),
            "faster_by_structure": None if same is None else _faster(base, same, names),
            "smaller": base.values[-1] / trial.values[-1],
            "points": scale * (found.value if found else trial.values[0] - base.values[0]),
            "low": scale * found.low if found else None,
            "high": scale * found.high if found else None,
        }

    def _in_base_precision(self, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial in the base model's precision whose weights this one has; None for weights of its own."""
        number = queries.stored_parent(trial)
        if number is None or self._base is None or number == self._base.number:
            return None
        parent = self._study.get_trials(deepcopy=False)[number]
        is_same = queries.checkpoint_of(parent) == queries.checkpoint_of(trial)
        return parent if is_same and queries.precision_of(parent) == queries.precision_of(self._base) else None

    def is_member(self, trial: FrozenTrial) -> bool:
        """Whether the trial is to be compared with controls: all but the base model and provisional ones."""
        return trial.number in self._best

    def tfidf_line(self) -> str | None:
        """A sentence about the members that do not beat TF-IDF; None where that is not known."""
        if self._tfidf is None:
            return None
        found = {number: self._difference(number, TFIDF) for number in self._best}
        beaten = [number for number, item in found.items() if item is not None and item.verdict != "better"]
        line = f"TF-IDF and a linear model reach {self._tfidf.quality:.4f}"
        if beaten:
            return f"{line}; not shown to beat them: {trials_in_words(beaten)}"
        return line if None in found.values() else f"{line}; every member beats them"

    def _difference(self, mine: int, other: int | str) -> Difference | None:
        """Compares two sets of predictions; None where one of them is not stored, or is of other data."""
        a, b = self._stored.get(mine), self._stored.get(other)
        if a is None or b is None or a.split != b.split:
            return None
        if REPLICATES in (a.classes, b.classes):
            if a.classes != b.classes or a.values.shape != b.values.shape:
                return None
            return score_difference(a.values.astype(np.float64), b.values.astype(np.float64))
        if not a.classes:
            return score_difference(self._scores[mine], self._scores[other])
        return class_difference(
            a.labels, a.values, b.values, classes=a.classes, metric=self._metric, positive=a.positive
        )


def best_control(member: FrozenTrial, controls: Sequence[FrozenTrial], family: Controls | None) -> FrozenTrial | None:
    """The comparable control of the highest quality, the earliest of equals; None if none is comparable."""
    found = [control for control in controls if is_comparable(member, control, family)]
    return max(found, key=lambda control: (control.values[0], -control.number), default=None)


def is_comparable(member: FrozenTrial, control: FrozenTrial, family: Controls | None) -> bool:
    """Whether a control is of the member's kind and precision, or is no more expensive in any objective."""
    if family is not None and queries.precision_of(member) == queries.precision_of(control):
        recipe, depth = queries.recipe_of(control) or {}, queries.control_depth_of(control)
        if family.is_alike(member.params, recipe, depth):
            return True
    return is_as_fast(member, control) and control.values[-1] <= member.values[-1]


def is_as_fast(member: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether another trial is no slower than a member in any latency."""
    pairs = zip(other.values[1:-1], member.values[1:-1], strict=True)
    return all(its <= mine * (1 + LATENCY_TOLERANCE) for its, mine in pairs)


def best_outside(member: FrozenTrial, outside: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The model from outside of the highest quality that is no slower, the earliest of equals; None if none is."""
    found = [model for model in outside if is_as_fast(member, model)]
    return max(found, key=lambda model: (model.values[0], -model.number), default=None)


def dominates(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether one complete trial is no worse than another in any objective, and better in one."""
    quality, *costs = zip(one.values, other.values, strict=True)
    gains = [quality[0] - quality[1], *(its - mine for mine, its in costs)]
    return bool(min(gains) >= 0 < max(gains))


def _scores_of_numbers(stored: Mapping[int | str, Predictions], metric: str) -> dict[int | str, FloatArray]:
    """The metric of regressions on resamples, which are the same for all predictions of one split."""
    scores: dict[int | str, FloatArray] = {}
    for split in {item.split for item in stored.values() if not item.classes}:
        names = [name for name, item in stored.items() if item.split == split]
        values = [stored[name].values for name in names]
        scores.update(zip(names, number_scores(stored[names[0]].labels, values, metric=metric), strict=True))
    return scores


def pareto_records(comparisons: Comparisons, front: Sequence[FrozenTrial], names: Sequence[str]) -> list[Record]:
    """Records of the members of the front, with their comparisons; `knee` is true of one of them."""
    return [
        {
            **trial_record(trial, names),
            "knee": trial.number == comparisons.knee,
            "against_base": comparisons.against_base(trial, names),
            "comparison": comparisons.record(trial),
            "outside": comparisons.against_outside(trial),
        }
        for trial in front
    ]


def with_ratios(record: Record) -> Record:
    """The record of a member with its comparison with the base model in words, for tables."""
    found = record["against_base"]
    if found is None:
        return {**record, "points": "the base model"}
    interval = "no interval" if found["low"] is None else f"{found['low']:+.1f} to {found['high']:+.1f}"
    return {
        **record,
        "points": f"{found['points']:+.1f} ({interval})",
        "faster": {name: f"{ratio:.2f}x" for name, ratio in found["faster"].items()},
        "faster_by_structure": {name: f"{ratio:.2f}x" for name, ratio in (found["faster_by_structure"] or {}).items()},
        "smaller": f"{found['smaller']:.2f}x",
    }


def front_columns(names: Sequence[str], records: Sequence[Record]) -> dict[str, str]:
    """Columns of the table of a Pareto front: the values, and how they compare with the base model's.

    What structure alone gives stands beside it where any of the records has a precision of its own.
    """
    is_stored_again = any((record["against_base"] or {}).get("faster_by_structure") for record in records)
    latencies = [name for name in names if name.startswith("latency_ms")]
    cut = dict.fromkeys(each for record in records for each in record.get("quality_by_dimension", {}))
    columns = {"trial": "number", "quality": "values.quality"}
    columns |= {f"at {each}": f"quality_by_dimension.{each}" for each in cut} | {"points from base": "points"}
    for name in latencies:
        faster = "x faster" if len(latencies) == 1 else f"x faster ({name.removeprefix('latency_ms_')})"
        columns |= {name: f"values.{name}", faster: f"faster.{name}"}
        if is_stored_again:
            columns[faster.replace("x faster", "structure alone")] = f"faster_by_structure.{name}"
    columns |= {"memory_mb": "values.memory_mb", "x smaller": "smaller"}
    left_out = {*columns, "state"}
    return columns | {head: key for head, key in trial_columns(names).items() if head not in left_out}


def with_verdict(record: Record, is_member: bool) -> Record:
    """The record of a member with its comparison in words, for tables."""
    found = record["comparison"]
    if found is None:
        return {**record, "verdict": "no comparable control" if is_member else None}
    difference, verdict = difference_in_words(found)
    return {
        **record,
        "best_control": f"{found['control']} (trial {found['trial']})",
        "difference": difference,
        "verdict": verdict,
    }


def difference_in_words(found: Record) -> tuple[str, str]:
    """A comparison's difference with its interval, and its verdict, for tables."""
    interval = "unknown" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
    words = {"better": "beats it", "worse": "is beaten by it", "unknown": "unknown: no predictions stored"}
    verdict = words.get(found["verdict"], "does not beat it: no difference shown")
    return f"{found['difference']:+.4f} ({interval})", verdict


def _faster(base: FrozenTrial, trial: FrozenTrial, names: Sequence[str]) -> dict[str, float]:
    """How many times as fast as the base model a trial is, by latency."""
    pairs = zip(names, base.values, trial.values, strict=True)
    return {name: theirs / own for name, theirs, own in pairs if name not in ("quality", "memory_mb")}


KNEE_COLUMN = {"knee": "knee"}
"""A mark of one member of the front; left out where that one is not shown."""

VERDICT_COLUMNS = {
    "best control": "best_control",
    "difference (95 % interval)": "difference",
    "verdict": "verdict",
}


def summary_lines(comparisons: Comparisons, records: Sequence[Record], name: str) -> list[str]:
    """The result of the comparisons, in sentences.

    Args:
        comparisons: those of the front.
        records: those of its trials.
        name: the study's name.
    """
    members = comparisons.members
    if not members:
        return []
    if not comparisons.controls:
        return [f"run `nasopt study controls {name}` to see whether the search found anything"]
    found = [record["comparison"] for record in records if record["comparison"] is not None]
    verdicts = [item["verdict"] for item in found]
    better = verdicts.count("better")
    beat = "beats" if better == 1 else "beat"
    rest = {
        "does not (no difference shown)": verdicts.count("no difference shown"),
        "does worse": verdicts.count("worse"),
        "has no predictions to compare": verdicts.count("unknown"),
        f"has no comparable control (run `nasopt study controls {name}`)": len(members) - len(found),
    }
    line = f"{better} of {len(members)} members {beat} the best control of their own cost or depth"
    lines = [line + count_words(rest)]
    tfidf = comparisons.tfidf_line()
    if tfidf is not None:
        lines.append(tfidf)
    if comparisons.without_predictions:
        lines.append(f"no predictions are stored of {trials_in_words(comparisons.without_predictions)}")
    return lines


def control_records(opened: OpenStudy) -> list[Record]:
    """Every control of a study that has ended, by depth and label, and TF-IDF."""
    study, names = opened.study, opened.config.metric_names
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    ended = [trial for trial in trials if queries.is_control(trial) and not queries.is_interrupted(trial)]
    records = [_control_record(trial, names) for trial in ended]
    order = ("depth", "precision", "finetune_epochs", "distill_epochs")
    records.sort(key=lambda record: [(record[key] is not None, record[key]) for key in order])
    tfidf = StudyRecord.of(study).tfidf
    if tfidf is not None:
        empty = dict.fromkeys(records[0]) if records else {}
        values = {"quality": tfidf.quality}
        records.append({**empty, "state": "COMPLETE", "values": values, "params": {}, "control": TFIDF})
    return records


def _control_record(trial: FrozenTrial, names: Sequence[str]) -> Record:
    recipe = queries.recipe_of(trial) or {}
    record = trial_record(trial, names)
    return {
        **record,
        "precision": record["precision"] or recipe.get("precision"),
        "depth": queries.control_depth_of(trial),
        "finetune_epochs": recipe.get("finetune_epochs"),
        "distill_epochs": recipe.get("distill_epochs"),
    }


def print_controls(opened: OpenStudy, form: Format, console: Console) -> None:
    """Prints every control of a study on stdout."""
    values = {name: f"values.{name}" for name in opened.config.metric_names}
    columns = {"control": "control", "trial": "number", "state": "state", **values} | {
        "depth": "depth",
        "precision": "precision",
        "fine-tuned": "finetune_epochs",
        "distilled": "distill_epochs",
        **PROVENANCE_COLUMNS,
        "failure": "failure",
    }
    print_records(control_records(opened), form, columns, console)


def count_words(counts: Mapping[str, int]) -> str:
    """`; 2 do worse` for every count above 0."""
    return "".join(f"; {count} {_plural(words, count)}" for words, count in counts.items() if count)


def _plural(words: str, count: int) -> str:
    """`does not` of one is `do not` of several."""
    verb, _, others = words.partition(" ")
    return words if count == 1 else f"{VERBS[verb]} {others}"


def trials_in_words(numbers: Sequence[int]) -> str:
    """`trials 1, 3`."""
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
