"""Confirms latencies that were looked up: after a search the Pareto front and the base model are really measured."""

from __future__ import annotations

import logging

import optuna
from optuna.trial import FrozenTrial

from nasopt.config.study import LatencyConfig
from nasopt.host.files import lock_in
from nasopt.measurement.device import resolve_device
from nasopt.measurement.lookup.source import LookupSource
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.records import queries
from nasopt.records.latency import Confirmation
from nasopt.records.study import StudyRecord
from nasopt.study.opening import OpenStudy
from nasopt.training.context import Context
from nasopt.trial.artifact import make_artifact
from nasopt.trial.objective import Objective
from nasopt.trial.rebuilding import rebuild
from nasopt.trial.subject import subject_of

logger = logging.getLogger("nasopt")


def unconfirmed(opened: OpenStudy) -> list[FrozenTrial]:
    """The base model and members of the Pareto front that the study wants measured and that have not been."""
    base = queries.base_of(opened.study)
    if base is None or not any(latency.confirm for latency in opened.config.latency):
        return []
    front = [trial for trial in queries.pareto_front(opened.study) if trial.number != base.number]
    known = StudyRecord.of(opened.study).confirmations
    return [trial for trial in (base, *front) if trial.number not in known]


def confirm(opened: OpenStudy, objective: Objective) -> None:
    """Measures the trials that are unconfirmed. A trial that any process has measured before is not measured again.

    A finished trial's values never change: the measurement stands in the study's attribute ``confirmed:<trial>``. A
    measurement that fails leaves a warning, and the trial unconfirmed.

    Raises:
        NasoptError: the device is not here, or a checkpoint is damaged.
    """
    if not unconfirmed(opened):
        return
    context = objective.prepare(opened.study)
    sources = {
        latency.objective_name: _measuring(latency, objective) for latency in opened.config.latency if latency.confirm
    }
    with lock_in(opened.folder, ".confirmation.lock"):
        waiting = unconfirmed(opened)
        for done, trial in enumerate(waiting):
            objective.trial_number = trial.number
            context.on_phase("confirming", done, len(waiting))
            try:
                found = _original(opened.study, trial) or _measured(opened, objective, trial, sources, context)
            except MeasurementError as error:
                logger.warning("trial %d could not be confirmed: %s", trial.number, error)
                continue
            StudyRecord(confirmations={trial.number: found}).write_to(opened.study)


def _measuring(latency: LatencyConfig, objective: Objective) -> MeasuringSource:
    """A source that measures as the table was measured: on its device, with its threads."""
    source = objective.sources[latency.objective_name]
    assert isinstance(source, LookupSource)
    return MeasuringSource(latency.model_copy(update={"threads": source.table.threads}), resolve_device(latency.device))


def _original(study: optuna.Study, trial: FrozenTrial) -> dict[str, Confirmation] | None:
    """The measurements of the trial whose work this one would have done again."""
    original = queries.original_of(trial)
    return None if original is None else queries.confirmation_of(study, original)


def _measured(
    opened: OpenStudy,
    objective: Objective,
    trial: FrozenTrial,
    sources: dict[str, MeasuringSource],
    context: Context,
) -> dict[str, Confirmation]:
    """A trial's latencies, by objective; the base model's own where it is the base."""
    base = queries.base_of(opened.study)
    assert base is not None
    base_found = queries.confirmation_of(opened.study, base.number) or {}
    candidate = rebuild(objective.method, context.checkpoints, trial, context.task)
    found = {}
    for name, source in sources.items():
        artifact = make_artifact(candidate, source.device, objective.method.plan.quantizer)
        reference = base_found[name].measured.value_ms if name in base_found else None
        looked_up = queries.latencies_of(trial)[name]
        measured = source.record(subject_of(artifact, candidate, context), reference)
        found[name] = Confirmation(measured, predicted_ms=looked_up.value_ms, predicted_ratio=looked_up.ratio)
    return found
