"""Confirming what was looked up: at the end of a search the Pareto front, and the base model, are really measured."""

from __future__ import annotations

import logging

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial

from nasopt.config import LatencyConfig
from nasopt.delivery import rebuild
from nasopt.latency_objective import LookedUpLatency, MeasuredLatency, Record, latency_name, with_value
from nasopt.measurement.device import resolve_device
from nasopt.measurement.latency import MeasurementError
from nasopt.methods.base import Context
from nasopt.objective import Objective
from nasopt.storage import attributes
from nasopt.study import OpenStudy

logger = logging.getLogger("nasopt")


def unconfirmed(opened: OpenStudy) -> list[FrozenTrial]:
    """The base model and members of the Pareto front that the study wants measured and that have not been."""
    base = attributes.base_of(opened.study)
    if base is None or not any(latency.confirm for latency in opened.config.latency):
        return []
    front = [trial for trial in attributes.pareto_front(opened.study) if trial.number != base.number]
    known = opened.study.user_attrs
    return [trial for trial in (base, *front) if f"{attributes.CONFIRMED}{trial.number}" not in known]


def confirm(opened: OpenStudy, objective: Objective) -> None:
    """Measures what is unconfirmed. What was measured before, by any process, is not measured again.

    A finished trial's values never change: what is found stands in the study's attribute ``confirmed:<trial>``. A
    measurement that fails leaves a warning, and the trial unconfirmed.

    Raises:
        NasoptError: the device is not here, or a checkpoint is damaged.
    """
    if not unconfirmed(opened):
        return
    context = objective.prepare(opened.study)
    sources = {
        latency_name(latency): _measuring(latency, objective) for latency in opened.config.latency if latency.confirm
    }
    with FileLock(opened.folder / ".confirmation.lock"):
        waiting = unconfirmed(opened)
        for done, trial in enumerate(waiting):
            objective.trial_number = trial.number
            context.on_phase("confirming", done, len(waiting))
            try:
                found = _original(opened.study, trial) or _measured(opened, objective, trial, sources, context)
            except MeasurementError as error:
                logger.warning("trial %d could not be confirmed: %s", trial.number, error)
                continue
            opened.study.set_user_attr(f"{attributes.CONFIRMED}{trial.number}", found)


def _measuring(latency: LatencyConfig, objective: Objective) -> MeasuredLatency:
    """Measures as the table was: on its device, with its threads."""
    source = objective.sources[latency_name(latency)]
    assert isinstance(source, LookedUpLatency)
    return MeasuredLatency(latency.model_copy(update={"threads": source.table.threads}), resolve_device(latency.device))


def _original(study: optuna.Study, trial: FrozenTrial) -> Record | None:
    """What was measured of the trial whose work this one would have done again."""
    original = trial.user_attrs.get(attributes.REPEATS)
    return None if original is None else attributes.confirmation_of(study, original)


def _measured(
    opened: OpenStudy,
    objective: Objective,
    trial: FrozenTrial,
    sources: dict[str, MeasuredLatency],
    context: Context,
) -> Record:
    """A trial's latencies, by objective; the base model's own where it is the base."""
    base = attributes.base_of(opened.study)
    assert base is not None
    base_found = attributes.confirmation_of(opened.study, base.number) or {}
    candidate = rebuild(opened, trial, context.task)
    found: Record = {}
    for name, source in sources.items():
        artifact = objective.method.quantize(candidate, source.device)
        record = source.record(artifact, candidate, context)
        reference = base_found.get(name, {}).get("value_ms")
        predicted = trial.user_attrs[attributes.LATENCY][name]
        looked_up = {"predicted_ms": predicted["value_ms"], "predicted_ratio": predicted["ratio"]}
        found[name] = {**with_value(record, reference), **looked_up}
    return found
