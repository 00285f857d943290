"""Models that were made elsewhere beside the members of a front: which are dominated, and by which."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial
from rich.console import Console

from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.report.printing import Format, Record, print_records
from nasopt.report.tables import pareto_trials, trial_record
from nasopt.report.verdicts import (
    Comparisons,
    count_words,
    difference_in_words,
    dominates,
    front_columns,
    trials_in_words,
    with_ratios,
)
from nasopt.study.opening import OpenStudy

OUTSIDE_COLUMNS = {
    "best outside model": "best_outside",
    "difference to it (95 % interval)": "outside_difference",
    "verdict on it": "outside_verdict",
}
"""Columns of a member's comparison with the best model from outside that is no slower."""
MODEL_COLUMN = {"model": "control"}


def outside_records(opened: OpenStudy, comparisons: Comparisons) -> list[Record]:
    """Every model from outside, by falling quality, with its comparison with the base model.

    `dominates` and `dominated_by` are numbers of members of the front: all objectives of the one are no worse, and one
    is better.
    """
    names = opened.config.metric_names
    records = []
    for trial in sorted(comparisons.outside, key=lambda trial: trial.values[0], reverse=True):
        recipe = queries.outside_of(trial)
        assert recipe is not None
        record = {
            **trial_record(trial, names),
            "architecture": TrialRecord.of(trial).architecture,
            "model": recipe.model.source,
            "revision": recipe.model.revision,
            "epochs": recipe.epochs,
            "against_base": comparisons.against_base(trial, names),
            "dominates": [member.number for member in comparisons.members if dominates(trial, member)],
            "dominated_by": [member.number for member in comparisons.members if dominates(member, trial)],
        }
        records.append(record)
    return records


def outside_lines(comparisons: Comparisons, front: Sequence[Record], outside: Sequence[Record]) -> list[str]:
    """What the models from outside say of the search, in sentences; none where there are no such models, or no members.

    Args:
        comparisons: those of the front.
        front: records of its trials, with their comparisons.
        outside: records of :func:`outside_records`.
    """
    if not outside or not comparisons.members:
        return []
    found = [record["outside"]["verdict"] for record in front if record["outside"] is not None]
    if found:
        better, count = found.count("better"), len(found)
        rest = {
            "does not (no difference shown)": found.count("no difference shown"),
            "does worse": found.count("worse"),
            "has no predictions to compare": found.count("unknown"),
        }
        beat = "beats" if better == 1 else "beat"
        lines = [f"{better} of {count} members {beat} the best outside model as fast as they are" + count_words(rest)]
    else:
        lines = ["no outside model is as fast as a member"]
    return lines + [line for record in outside for line in relation_lines(record)]


def relation_lines(record: Record) -> list[str]:
    """How a model from outside stands to the members of the front."""
    name = f"{record['control']} (trial {record['number']})"
    lines = []
    if record["dominates"]:
        numbers = trials_in_words(record["dominates"])
        lines.append(f"{name} dominates {numbers}: at least as good, as fast and as small, and better in one of them")
    if record["dominated_by"]:
        lines.append(f"{name} is dominated by {trials_in_words(record['dominated_by'])}")
    return lines or [f"{name} dominates no member, and none dominates it"]


def with_outside_verdict(record: Record, is_member: bool) -> Record:
    """The record of a member with its comparison with models from outside in words, for tables."""
    found = record["outside"]
    if found is None:
        return {**record, "outside_verdict": "no outside model as fast" if is_member else None}
    difference, verdict = difference_in_words(found)
    return {
        **record,
        "best_outside": f"{found['model']} (trial {found['trial']})",
        "outside_difference": difference,
        "outside_verdict": f"{verdict}; is dominated by it" if found["dominated"] else verdict,
    }


def outside_columns(names: Sequence[str], records: Sequence[Record]) -> dict[str, str]:
    """Columns of a table of models from outside."""
    columns = {head: key for head, key in front_columns(names, records).items() if head not in ("control", "precision")}
    return MODEL_COLUMN | columns | {"is made of": "architecture"}


def print_outside(opened: OpenStudy, trial: FrozenTrial, form: Format, console: Console) -> list[str]:
    """Prints one model from outside on stdout, beside the base model; returns how it stands to the front."""
    comparisons = Comparisons(opened, pareto_trials(opened))
    records = [item for item in outside_records(opened, comparisons) if item["number"] == trial.number]
    rows = [with_ratios(item) for item in records] if form == "table" else records
    print_records(rows, form, outside_columns(opened.config.metric_names, records), console)
    return [line for item in records for line in relation_lines(item)] if comparisons.members else []
