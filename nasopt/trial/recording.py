"""Recording a trial: everything that is stored of one, while it runs and when it has been evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna

from nasopt.methods.base import Judgement
from nasopt.records import queries
from nasopt.records.notes import TrialView, failure_text, note_text, screening_text
from nasopt.records.trial import TrialRecord, with_parent
from nasopt.samplers.history import parent_of
from nasopt.storage.attachments import attach, documents
from nasopt.storage.notes import save_note
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context
from nasopt.trial.evaluation import Evaluated
from nasopt.trial.failures import in_one_line


def record_result(
    trial: optuna.Trial,
    candidate: Candidate,
    found: Evaluated,
    judgement: Judgement,
    context: Context,
    device_changes: Sequence[str],
) -> None:
    """Keeps the fp32 weights for children and export, and says what the candidate is.

    Args:
        trial: under way.
        candidate: the candidate that it made.
        found: the findings about the candidate.
        judgement: the method's judgement.
        context: the study's context.
        device_changes: the objectives in which this machine's values do not compare with those that the study began
            with.
    """
    context.on_phase("storing", 0, 0)
    _keep_predictions(trial.number, found, context)
    key = context.checkpoints.write(
        candidate.model.state_dict(),
        candidate.architecture,
        announce=lambda key: TrialRecord(checkpoint=key).write_to(trial),
    )
    for name, violation in judgement.constraints.items():
        trial.set_constraint(name, violation)
    is_control = queries.is_control(trial)
    lineage = candidate.lineage
    TrialRecord(
        device_change="; ".join(device_changes) or None,
        quality_details=dict(found.evaluation.details) or None,
        quality_by_dimension={str(each): value for each, value in found.evaluation.by_dimension.items()} or None,
        memory=found.memory,
        latencies=found.latencies,
        architecture=candidate.architecture.brief(),
        precision=candidate.architecture.precision,
        finetune_epochs=lineage.finetune_epochs,
        distill_epochs=lineage.distill_epochs,
        search_epochs=lineage.search_epochs,
        training_budget=lineage.budget,
        training_result=candidate.training,
        parameters=found.parameters,
        flops=found.flops,
        provisional=candidate.is_provisional or None,
        is_base=(lineage.parent is None and key == context.base_key and not is_control) or None,
        details={**candidate.details, **({} if is_control else judgement.scores)},
        **with_parent(lineage.parent),
    ).write_to(trial)
    view = _view(trial, candidate, found, context)
    attach(trial, context.folder, documents(view))
    save_note(trial, note_text(view))


def record_failure(trial: optuna.Trial, error: Exception) -> str:
    """Says why a trial failed, and returns it on one line."""
    reason = in_one_line(error)
    TrialRecord(failure=reason).write_to(trial)
    save_note(trial, failure_text(reason, parent_of(trial)))
    return reason


def record_interruption(trial: optuna.Trial, error: KeyboardInterrupt) -> None:
    """Says that a trial was interrupted, so that it is tried again."""
    TrialRecord(interrupted=True, failure=f"interrupted: {str(error) or 'Ctrl-C'}").write_to(trial)


def record_machine_failure(trial: optuna.Trial, reason: str) -> None:
    """Says what of the machine stopped a trial, so that it is tried again and counts in no budget."""
    TrialRecord(interrupted=True, failure=reason).write_to(trial)


def record_rejection(trial: optuna.Trial, reason: str, constraints: Mapping[str, float]) -> None:
    """Says which constraints a candidate breaks that was not built."""
    for name, violation in constraints.items():
        trial.set_constraint(name, violation)
    TrialRecord(rejected=reason).write_to(trial)


def record_screening(trial: optuna.Trial, reason: str) -> None:
    """Says why a provisional candidate was given up on a part of the validation split."""
    TrialRecord(screened=reason).write_to(trial)
    save_note(trial, screening_text(reason))


def _keep_predictions(number: int, found: Evaluated, context: Context) -> None:
    split, evaluation = context.splits["validation"], found.evaluation
    if evaluation.replicates is not None:
        predictions = Predictions.of_replicates(evaluation.replicates, split.fingerprint)
    elif evaluation.outputs is not None:
        labels, classes = split.labels.numpy(), context.task.is_classification
        predictions = Predictions.of_outputs(
            evaluation.outputs, labels, split.fingerprint, classes=classes, positive=context.task.positive_class
        )
    else:
        return
    PredictionStore(context.folder).write(number, predictions)


def _view(trial: optuna.Trial, candidate: Candidate, found: Evaluated, context: Context) -> TrialView:
    """The view of a trial from which its note and attachments are made."""
    names, base = context.config.metric_names, context.base
    return TrialView(
        record=TrialRecord.of(trial),
        architecture=candidate.architecture,
        shape=context.shape,
        values=dict(zip(names, found.values, strict=True)),
        base_values=dict(zip(names, base.values, strict=True)) if base else {},
        metric=context.config.task.metric,
        trained=trial.params.get("training", "distill" if candidate.lineage.distill_epochs else "none"),
    )
