"""Studies and trials as records, and records as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from optuna.trial import FrozenTrial, TrialState
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from nasopt.objective import make_method
from nasopt.pareto import hypervolume
from nasopt.samplers.history import known_draws
from nasopt.storage import attributes
from nasopt.storage.attributes import complete_trials, feasible, minimised
from nasopt.storage.provenance import predicted_words, source_of
from nasopt.study import OpenStudy

Format: TypeAlias = Literal["table", "json", "csv"]
Record: TypeAlias = dict[str, Any]

DIGITS = {"quality": 4, "tfidf": 4, "memory_mb": 2, "duration_s": 1, "hypervolume": 2}
LATENCY_DIGITS = 3
PROVENANCE_COLUMNS = {"latency is": "predicted", "device has changed": "device_change"}
"""Shown where there is something to say: a value that is not measured on the study's own device says so."""


def pareto_trials(opened: OpenStudy) -> list[FrozenTrial]:
    """Complete feasible trials, without controls, that no other one dominates, by falling quality."""
    return sorted(attributes.pareto_front(opened.study), key=lambda trial: trial.values[0], reverse=True)


def trial_record(trial: FrozenTrial, metric_names: Sequence[str]) -> Record:
    """What is shown of a trial; `values` is None unless it is complete."""
    latencies = trial.user_attrs.get(attributes.LATENCY) or {}
    complete = trial.state == TrialState.COMPLETE
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": dict(zip(metric_names, trial.values, strict=True)) if complete else None,
        "params": trial.params,
        "parent": trial.user_attrs.get(attributes.PARENT),
        "precision": attributes.precision_of(trial) if complete else trial.params.get("precision"),
        "source": source_of(latencies),
        "predicted": predicted_words(latencies),
        "device_change": trial.user_attrs.get(attributes.DEVICE_CHANGE),
        "memory": trial.user_attrs.get(attributes.MEMORY),
        "control": trial.user_attrs.get(attributes.CONTROL),
        "failure": trial.user_attrs.get(attributes.FAILURE) or trial.user_attrs.get(attributes.REJECTED),
        "duration_s": None if trial.duration is None else trial.duration.total_seconds(),
        "feasible": all(value <= 0 for value in trial.constraints.values()),
    }


def study_record(opened: OpenStudy) -> Record:
    """What `study show` tells of a study, and `study list` of each."""
    study, config = opened.study, opened.config
    trials = study.get_trials(deepcopy=False)
    names = study.metric_names or []
    complete = feasible(complete_trials(study))
    base = attributes.base_of(study)
    measured: Record = base.user_attrs.get(attributes.LATENCY, {}) if base else {}
    environment: Record = next(iter(measured.values()), {})
    return {
        "name": config.name,
        "method": config.method,
        "model": config.task.model,
        "data": config.task.dataset.path,
        "metric": config.task.metric,
        "device": environment.get("device") or config.latency[0].device,
        "source": predicted_words(measured) or source_of(measured),
        "trials": dict(Counter(trial.state.name for trial in trials)),
        "not_trained": not_trained(trials),
        "best": {name: best for name, best in zip(names, _best(opened, complete), strict=False)},
        "base": dict(zip(names, base.values, strict=True)) if base else None,
        "pareto": len(pareto_trials(opened)),
        "controls": len(attributes.complete_controls(study)),
        "tfidf": study.user_attrs.get(attributes.TFIDF, {}).get("quality"),
        "hypervolume": _hypervolume(opened, complete),
        **make_method(config).record(study),
        "artifacts": str(opened.folder),
    }


def not_trained(trials: Sequence[FrozenTrial]) -> Record:
    """How much work was not done: candidates that break a constraint by what is known beforehand, and known ones."""
    return {
        "rejected": sum(attributes.REJECTED in trial.user_attrs for trial in trials),
        "repeated": sum(attributes.REPEATS in trial.user_attrs for trial in trials),
        "known_drawn": sum(known_draws(trial) for trial in trials),
    }


def _best(opened: OpenStudy, complete: Sequence[FrozenTrial]) -> list[Record]:
    """The best value of each objective, and the trial that reached it."""
    if not complete:
        return []
    positions = minimised(complete, opened.study).argmin(axis=0)
    return [
        {"value": complete[int(row)].values[objective], "trial": complete[int(row)].number}
        for objective, row in enumerate(positions)
    ]


def _hypervolume(opened: OpenStudy, complete: Sequence[FrozenTrial]) -> float | None:
    reference = opened.study.user_attrs.get(attributes.REFERENCE_POINT)
    if reference is None or not complete:
        return None
    return hypervolume(minimised(complete, opened.study), [-reference[0], *reference[1:]])


def print_records(records: Sequence[Record], form: Format, columns: Mapping[str, str], console: Console) -> None:
    """Prints records on stdout.

    Args:
        records: nested at will.
        form: `table` shows `columns` only; `json` an array of the records; `csv` the records flattened.
        columns: heading of each column of the table and the (dotted) key it shows. One that no record has a value for
            is left out.
        console: for the table.
    """
    if form == "json":
        print(json.dumps(records, indent=2))
        return
    flat = [flatten(record) for record in records]
    if form == "csv":
        names = list(dict.fromkeys(name for record in flat for name in record))
        writer = csv.DictWriter(sys.stdout, names or list(columns.values()), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return
    columns = {head: key for head, key in columns.items() if any(item.get(key) is not None for item in flat)} or columns
    # NOTE: not by rich's Table, which takes 6 s for 10,000 rows. Long texts are in the last column and may wrap.
    rows = [list(columns), *([shown(key, record.get(key)) for key in columns.values()] for record in flat)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    console.print(lines[0], style="bold", markup=False, highlight=False, soft_wrap=True)
    print("\n".join(lines[1:]), file=console.file, end="\n" if records else "")


def print_record(record: Record, form: Format, console: Console) -> None:
    """Prints one record on stdout: an object in JSON, one row in CSV, else a line for each key."""
    if form == "json":
        print(json.dumps(record, indent=2))
    elif form == "csv":
        print_records([record], form, {}, console)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for key, value in record.items():
            table.add_row(key, _sentence(key, value))
        console.print(table)


def flatten(record: Record, prefix: str = "") -> Record:
    """`{"values": {"quality": 1}}` as `{"values.quality": 1}`."""
    flat: Record = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = None if value == {} else value
    return flat


def shown(key: str, value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    name = key.rpartition(".")[2]
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(name, LATENCY_DIGITS)}f}"
    return str(value)


def _sentence(key: str, value: object) -> str:
    """A nested value of `study show` on one line."""
    if not isinstance(value, dict):
        return shown(key, value)
    return ", ".join(_items(value)) or "-"


def _items(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{name} {shown(name, value['value'])} (trial {value['trial']})"
        else:
            yield f"{name} {shown(name, value)}"


def trial_columns(metric_names: Sequence[str]) -> dict[str, str]:
    """Columns of a table of trials."""
    values = {name: f"values.{name}" for name in metric_names}
    return {"trial": "number", "state": "state", **values, "layers": "layers", "heads": "heads", "ffn": "ffn"} | {
        "precision": "precision",
        "training": "params.training",
        "parent": "parent",
        "control": "control",
        **PROVENANCE_COLUMNS,
        "failure": "failure",
    }


def with_totals(record: Record) -> Record:
    """A trial's record with its layers, heads and FFN neurons added up, for tables."""
    params = record["params"]
    kept = [name.removeprefix("layer_") for name, value in params.items() if name.startswith("layer_") and value]
    if not kept:
        return record
    totals = {
        "layers": len(kept),
        "heads": sum(params.get(f"heads_{layer}", 0) for layer in kept),
        "ffn": sum(params.get(f"ffn_{layer}", 0) for layer in kept),
    }
    return {**record, **totals}
