"""Studies and trials as records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.genotype import GENOTYPE_NAME
from nasopt.methods.registry import make_method
from nasopt.numerics.pareto import hypervolume
from nasopt.records import queries
from nasopt.records.latency import predicted_words, source_of
from nasopt.records.queries import feasible, final_trials, minimised
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.report.printing import Record, shown
from nasopt.samplers.history import known_draws
from nasopt.study.opening import OpenStudy

PROVENANCE_COLUMNS = {"latency is": "predicted", "device has changed": "device_change"}
"""Columns shown only where they say something: that a value was not measured on the study's own device."""

PROVISIONAL_COLUMN = {"standing": "standing"}
"""A column shown only where there are provisional trials."""


def pareto_trials(opened: OpenStudy, *, provisional: bool = False) -> list[FrozenTrial]:
    """The members of the Pareto front by falling quality, `provisional` trials among them if they are wanted."""
    front = queries.whole_front(opened.study) if provisional else queries.pareto_front(opened.study)
    return sorted(front, key=lambda trial: trial.values[0], reverse=True)


def trial_record(trial: FrozenTrial, metric_names: Sequence[str]) -> Record:
    """The record that is shown of a trial; `values` is None unless it is complete."""
    record = TrialRecord.of(trial)
    latencies = record.latencies or {}
    complete = trial.state == TrialState.COMPLETE
    of_cut_vectors = {"quality_by_dimension": record.quality_by_dimension} if record.quality_by_dimension else {}
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": dict(zip(metric_names, trial.values, strict=True)) if complete else None,
        **of_cut_vectors,
        "params": trial.params,
        "parent": record.parent,
        "precision": queries.precision_of(trial) if complete else trial.params.get("precision"),
        "source": source_of(latencies),
        "predicted": predicted_words(latencies),
        "device_change": record.device_change,
        "memory": None if record.memory is None else record.memory.to_json(),
        "control": None if record.control is None else record.control.label,
        "provisional": bool(record.provisional),
        "failure": record.failure or record.rejected or record.screened,
        "duration_s": None if trial.duration is None else trial.duration.total_seconds(),
        "feasible": all(value <= 0 for value in trial.constraints.values()),
    }


def study_record(opened: OpenStudy) -> Record:
    """The record that `study show` prints of a study, and `study list` of each."""
    study, config = opened.study, opened.config
    trials = study.get_trials(deepcopy=False)
    names = config.metric_names
    final = feasible(final_trials(study))
    base, tfidf = queries.base_of(study), StudyRecord.of(study).tfidf
    latencies = queries.latencies_of(base) if base else {}
    first = next(iter(latencies.values()), None)
    best = _best(opened, final)
    by_number = {trial.number: trial for trial in final}
    cut = {"best": by_number[best[0]["trial"]] if best else None, "base": base}
    of_cut_vectors = {
        f"{name}_by_dimension": by_dimension
        for name, trial in cut.items()
        if trial is not None and (by_dimension := TrialRecord.of(trial).quality_by_dimension)
    }
    return {
        "name": opened.name,
        "method": config.method,
        "model": config.task.model,
        "data": config.task.dataset.path,
        "metric": config.task.metric,
        "device": first.device if first else config.latency[0].device,
        "source": predicted_words(latencies) or source_of(latencies),
        "trials": dict(Counter(trial.state.name for trial in trials)),
        "not_trained": not_trained(trials),
        "provisional": sum(queries.is_provisional(trial) for trial in queries.complete_trials(study)),
        "best": {name: best for name, best in zip(names, best, strict=bool(final))},
        "base": dict(zip(names, base.values, strict=True)) if base else None,
        **of_cut_vectors,
        "pareto": len(pareto_trials(opened)),
        "controls": len(queries.complete_controls(study)),
        "tfidf": None if tfidf is None else tfidf.quality,
        "hypervolume": _hypervolume(opened, final),
        **make_method(config).summary(study),
        "artifacts": str(opened.folder),
    }


def not_trained(trials: Sequence[FrozenTrial]) -> Record:
    """Counts work that was not done: candidates that break a constraint by what is known beforehand, provisional ones
    that were given up on a part of the validation split, and known ones.
    """
    return {
        "rejected": sum(queries.is_rejected(trial) for trial in trials),
        "screened": sum(queries.is_screened(trial) for trial in trials),
        "repeated": sum(queries.is_repeat(trial) for trial in trials),
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
    reference = queries.reference_point(opened.study)
    if reference is None or not complete:
        return None
    return hypervolume(minimised(complete, opened.study), [-reference[0], *reference[1:]])


def trial_columns(metric_names: Sequence[str]) -> dict[str, str]:
    """Columns of a table of trials."""
    values = {name: f"values.{name}" for name in metric_names}
    return {
        "trial": "number",
        "state": "state",
        **values,
        "layers": "layers",
        "heads": "heads",
        "ffn": "ffn",
        "cells": "cells",
        "parameters": "parameters",
    } | {
        "precision": "precision",
        "training": "params.training",
        "parent": "parent",
        "control": "control",
        **PROVISIONAL_COLUMN,
        **PROVENANCE_COLUMNS,
        "failure": "failure",
    }


def with_totals(record: Record) -> Record:
    """A trial's record with its layers, heads and FFN neurons added up, or its cells in a row, for tables.

    Where there are none of these, as with a kind of candidate that another package adds, its parameters are in a row.
    """
    record, params = {**record, "standing": "provisional" if record.get("provisional") else None}, record["params"]
    names = sorted((name for name in params if name.startswith("cell_")), key=lambda name: int(name[5:]))
    cells = [params[name] for name in names]
    if cells:
        return {**record, "cells": " ".join(cells)}
    layers = [name for name in params if name.startswith("layer_")]
    kept = {name.removeprefix("layer_") for name in layers if params[name]}
    totals = {"layers": len(kept)} if layers else {}
    for part in ("heads", "ffn"):
        # Totals of all layers, or numbers layer by layer; those of removed layers do not count.
        counts = {name.removeprefix(f"{part}_"): value for name, value in params.items() if name.startswith(f"{part}_")}
        if counts:
            totals[part] = sum(value for layer, value in counts.items() if not layers or layer in kept)
    if not totals:
        others = {name: value for name, value in params.items() if GENOTYPE_NAME.fullmatch(name) is None}
        return {**record, "parameters": ", ".join(f"{name} {shown(name, others[name])}" for name in others) or None}
    return {**record, **totals}
