"""Prints a Pareto front, with what its members are compared with."""

from __future__ import annotations

from rich.console import Console

from nasopt.report.choosing import ALL, Choice
from nasopt.report.confirmations import confirmation_columns, with_confirmation, with_words
from nasopt.report.outside import OUTSIDE_COLUMNS, outside_lines, outside_records, with_outside_verdict
from nasopt.report.printing import Format, print_records
from nasopt.report.tables import pareto_trials, with_totals
from nasopt.report.verdicts import (
    KNEE_COLUMN,
    VERDICT_COLUMNS,
    Comparisons,
    front_columns,
    pareto_records,
    summary_lines,
    with_ratios,
    with_verdict,
)
from nasopt.study.opening import OpenStudy


def print_front(
    opened: OpenStudy, form: Format, console: Console, *, provisional: bool = False, choice: Choice = ALL
) -> list[str]:
    """Prints the Pareto front on stdout, with the comparisons, and returns their result, in sentences.

    Args:
        opened: the study.
        form: of what is printed.
        console: for a table.
        provisional: whether to print the front of all trials, provisional ones among them.
        choice: which of its trials are printed, and in which order; the result is that of the whole front.

    Raises:
        TrialNotFoundError: the choice names no objective, or no trial satisfies it.
    """
    names, front = opened.config.metric_names, pareto_trials(opened, provisional=provisional)
    comparisons = Comparisons(opened, front)
    every = pareto_records(comparisons, front, names)
    by_number = {record["number"]: record for record in every}
    shown = choice.of(front, names)
    records = [with_confirmation(opened, by_number[trial.number]) for trial in shown]
    columns, rows = front_columns(names, records) | KNEE_COLUMN | confirmation_columns(names), records
    if form == "table":
        rows = [with_totals(with_words(with_ratios(record))) for record in records]
        rows = [{**row, "knee": "knee" if row["knee"] else None} for row in rows]
        if comparisons.controls:
            columns |= VERDICT_COLUMNS
            rows = [with_verdict(row, comparisons.is_member(trial)) for row, trial in zip(rows, shown, strict=True)]
        if comparisons.outside:
            columns |= OUTSIDE_COLUMNS
            pairs = zip(rows, shown, strict=True)
            rows = [with_outside_verdict(row, comparisons.is_member(trial)) for row, trial in pairs]
    print_records(rows, form, columns, console)
    outside = outside_lines(comparisons, every, outside_records(opened, comparisons))
    return [*summary_lines(comparisons, every, opened.name), *outside]
