"""Recording a trial: everything that is stored of one, while it runs and when it has been evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from nasopt.methods.base import Judgement
from nasopt.records import names as attributes
from nasopt.records.notes import TrialFacts, failure_text, note_text, save_note
from nasopt.samplers.history import parent_of
from nasopt.storage.attachments import attach
from nasopt.storage.attachments import documents as attached_documents
from nasopt.storage.predictions import Predictions, PredictionStore
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context
from nasopt.trial.evaluation import Evaluated


def record_result(
    trial: optuna.Trial,
    candidate: Candidate,
    found: Evaluated,
    judgement: Judgement,
    context: Context,
    metric_names: list[str],
    device_change: str | None,
) -> None:
    """Keeps the fp32 weights for children and export, and says what the candidate is.

    Args:
        trial: under way.
        candidate: what it made.
        found: what was found out about it.
        judgement: the method's.
        context: the study's.
        metric_names: names of the values.
        device_change: from what device to what other one the study has come, if it has.
    """
    context.on_phase("storing", 0, 0)
    _keep_predictions(trial.number, found, context)
    key = context.checkpoints.write(
        candidate.model.state_dict(),
        candidate.architecture,
        announce=lambda key: trial.set_user_attr(attributes.CHECKPOINT, key),
    )
    for name, violation in judgement.constraints.items():
        trial.set_constraint(name, violation)
    for name, value in _described(trial, candidate, found, judgement, device_change).items():
        trial.set_user_attr(name, value)
    is_control = attributes.CONTROL in trial.user_attrs
    if candidate.lineage.parent is None and key == context.base_key and not is_control:
        trial.set_user_attr(attributes.IS_BASE, True)
    facts = _facts(trial, candidate, found, context, metric_names)
    attach(trial, context.folder, attached_documents(facts))
    save_note(trial, note_text(facts))


def record_failure(trial: optuna.Trial, error: Exception) -> str:
    """Says why a trial failed, and returns it on one line."""
    reason = f"{type(error).__name__}: {str(error) or 'no message'}".splitlines()[0]
    trial.set_user_attr(attributes.FAILURE, reason)
    save_note(trial, failure_text(reason, parent_of(trial)))
    return reason


def record_interruption(trial: optuna.Trial, error: KeyboardInterrupt) -> None:
    """Says that a trial was interrupted, so that it is tried again."""
    trial.set_user_attr(attributes.INTERRUPTED, True)
    trial.set_user_attr(attributes.FAILURE, f"interrupted: {str(error) or 'Ctrl-C'}")


def record_rejection(trial: optuna.Trial, reason: str, constraints: Mapping[str, float]) -> None:
    """Says which constraints a candidate breaks that was not built."""
    for name, violation in constraints.items():
        trial.set_constraint(name, violation)
    trial.set_user_attr(attributes.REJECTED, reason)


def _described(
    trial: optuna.Trial, candidate: Candidate, found: Evaluated, judgement: Judgement, device_change: str | None
) -> dict[str, Any]:
    lineage = candidate.lineage
    described: dict[str, Any] = {
        attributes.LATENCY: found.latencies,
        attributes.MEMORY: found.memory,
        attributes.ARCHITECTURE: candidate.architecture.brief(),
        attributes.PRECISION: candidate.architecture.precision,
        attributes.PARENT: lineage.parent,
        "finetune_epochs": lineage.finetune_epochs,
        "distill_epochs": lineage.distill_epochs,
        "search_epochs": lineage.search_epochs,
        "training_result": candidate.training,
        "parameters": found.parameters,
        "flops": found.flops,
        **candidate.details,
    }
    if attributes.CONTROL not in trial.user_attrs:
        described |= judgement.scores
    if found.evaluation.details:
        described[attributes.QUALITY_DETAILS] = dict(found.evaluation.details)
    if device_change is not None:
        described[attributes.DEVICE_CHANGE] = device_change
    return described


def _keep_predictions(number: int, found: Evaluated, context: Context) -> None:
    split, evaluation = context.splits["validation"], found.evaluation
    if evaluation.replicates is not None:
        predictions = Predictions.of_replicates(evaluation.replicates, split.fingerprint)
    elif evaluation.outputs is not None:
        labels, classes = split.labels.numpy(), context.task.is_classification
        predictions = Predictions.of_outputs(evaluation.outputs, labels, split.fingerprint, classes=classes)
    else:
        return
    PredictionStore(context.folder).write(number, predictions)


def _facts(
    trial: optuna.Trial, candidate: Candidate, found: Evaluated, context: Context, metric_names: list[str]
) -> TrialFacts:
    """What the trial's note says."""
    lineage, base = candidate.lineage, context.base
    return TrialFacts(
        architecture=candidate.architecture,
        shape=context.shape,
        parameters=found.parameters,
        flops=found.flops,
        values=dict(zip(metric_names, found.values, strict=True)),
        base_values=dict(zip(metric_names, base.values, strict=True)) if base else {},
        metric=context.config.task.metric,
        latencies=found.latencies,
        memory=found.memory,
        device_change=trial.user_attrs.get(attributes.DEVICE_CHANGE),
        parent=lineage.parent,
        trained=trial.params.get("training", "distill" if lineage.distill_epochs else "none"),
        training=candidate.training,
        epochs={
            "fine-tuning": lineage.finetune_epochs,
            "distillation": lineage.distill_epochs,
            "search": lineage.search_epochs,
        },
        control=trial.user_attrs.get(attributes.CONTROL),
        quality_details=dict(found.evaluation.details),
    )
