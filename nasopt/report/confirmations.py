"""Compares latencies that were looked up with those that were measured afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from nasopt.records import queries
from nasopt.records.latency import Confirmation
from nasopt.records.study import StudyRecord
from nasopt.report.printing import Record
from nasopt.study.opening import OpenStudy


def with_confirmation(opened: OpenStudy, record: Record) -> Record:
    """A trial's record with its measured latencies, by objective; None where nothing was confirmed.

    `error` is predicted / measured - 1.
    """
    found = queries.confirmation_of(opened.study, record["number"])
    if found is None:
        return {**record, "confirmed": None}
    return {**record, "confirmed": {name: _shown(item) for name, item in found.items()}}


def _shown(item: Confirmation) -> Record:
    measured = item.measured
    return {
        "measured_ms": measured.value_ms,
        "low_ms": measured.value_ms * measured.ratio_low / measured.ratio,
        "high_ms": measured.value_ms * measured.ratio_high / measured.ratio,
        "error": item.error,
    }


def with_words(record: Record) -> Record:
    """The record with its confirmations in words, for tables."""
    if not record.get("confirmed"):
        return record
    words = {
        name: f"{item['measured_ms']:.3f} ({item['low_ms']:.3f} to {item['high_ms']:.3f}), {item['error']:+.1%} off"
        for name, item in record["confirmed"].items()
    }
    return {**record, "confirmed": words}


def confirmation_columns(names: Sequence[str]) -> dict[str, str]:
    """Columns of a table of trials."""
    return {f"{name} measured": f"confirmed.{name}" for name in names if name.startswith("latency_ms")}


def with_summary(opened: OpenStudy, record: Record) -> Record:
    """The record that `study show` prints, with how far the look-up table was off if anything was confirmed."""
    found = confirmation_summary(opened)
    return record if found is None else {**record, "confirmed": found}


def confirmation_summary(opened: OpenStudy) -> Record | None:
    """Errors of the look-up table, as shares, on the trials that were measured afterwards; None if none was.

    The ratio to the base model is free of what slows the machine as a whole.
    """
    found = StudyRecord.of(opened.study).confirmations.values()
    if not found:
        return None
    items = [item for trial in found for item in trial.values()]
    errors = [abs(item.error) for item in items]
    ratios = [abs(item.ratio_error) for item in items]
    return {
        "trials": len(found),
        "median_error": statistics.median(errors),
        "largest_error": max(errors),
        "median_error_of_ratio_to_base": statistics.median(ratios),
    }
