"""Controls of a study: finds the missing ones, and runs them as trials that no sampler, budget or front counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import TrialNotFoundError
from nasopt.execution.search import run_trial
from nasopt.methods.controls import Control, Member
from nasopt.records import queries
from nasopt.records.study import StudyRecord, TfidfRecord
from nasopt.records.trial import TrialRecord, control_marks
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.validation_predictions import TFIDF, Predictions, PredictionStore
from nasopt.study.opening import OpenStudy
from nasopt.study.recovery import recording_interruptions, settle_interrupted
from nasopt.trial.objective import Objective
from nasopt.trial.proposal import lineage_of

logger = logging.getLogger("nasopt")


def members_of(opened: OpenStudy) -> list[FrozenTrial]:
    """The members of the Pareto front that a search has found: those that are not the base model.

    Raises:
        TrialNotFoundError: there is none, so that there is nothing to compare.
    """
    base = queries.base_of(opened.study)
    found = [trial for trial in queries.pareto_front(opened.study) if base is None or trial.number != base.number]
    if not found:
        name = opened.name
        raise TrialNotFoundError(
            f"the study {name!r} has found nothing yet that could be compared with controls: "
            f"run `nasopt study optimize {name}` first"
        )
    return found


def member_of(trial: FrozenTrial, checkpoints: CheckpointStore) -> Member:
    """A trial of the front as a method's controls see it."""
    key = queries.checkpoint_of(trial)
    assert key is not None  # every complete trial has one
    architecture = checkpoints.architecture(key) if key in checkpoints else None
    lineage = lineage_of(TrialRecord.of(trial))
    return Member(trial.number, trial.params, queries.precision_of(trial), key, lineage, architecture)


def missing_controls(opened: OpenStudy, objective: Objective, random_masks: int) -> list[Control]:
    """The controls of the members of the Pareto front that have yet to be evaluated.

    Raises:
        NasoptError: there is something that the user can mend (see :meth:`nasopt.trial.objective.Objective.prepare`).
    """
    study = opened.study
    context = objective.prepare(study)
    settle_interrupted(study, opened.folder)
    family = objective.method.controls
    if family is None:
        return []
    members = [member_of(trial, context.checkpoints) for trial in members_of(opened)]
    wanted = family.propose(members, context.shape, random_masks, opened.config.seed, context.epoch_cost)
    return unsettled(study, wanted)


def unsettled(study: Study, controls: Sequence[Control]) -> list[Control]:
    """The controls neither evaluated nor failed so far: an interrupted one is tried again, a failed one is not."""
    trials = study.get_trials(deepcopy=False)
    tried_again = queries.retried(trials)
    settled = {
        queries.recipe_key(recipe)
        for trial in trials
        if (recipe := queries.recipe_of(trial)) is not None and _is_settled(trial) and trial.number not in tried_again
    }
    return [control for control in controls if queries.recipe_key(control.recipe) not in settled]


def _is_settled(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return not queries.is_interrupted(trial)
    return trial.state != TrialState.WAITING


def run_controls(
    opened: OpenStudy, objective: Objective, controls: Sequence[Control], on_finished: Callable[[FrozenTrial], None]
) -> None:
    """Evaluates controls one after another, each by the objective that evaluates the search's trials.

    They are queued one by one: an interruption leaves none behind for `nasopt study optimize` but the one under way.
    """
    study = opened.study
    with recording_interruptions(study):
        for control in controls:
            if not unsettled(study, [control]):
                continue  # another process was faster
            run_control(opened, objective, control, on_finished)
        settle_interrupted(study, opened.folder)
        objective.collect(study)


def run_control(
    opened: OpenStudy, objective: Objective, control: Control, on_finished: Callable[[FrozenTrial], None]
) -> None:
    """Queues a control, unless it waits already, and runs trials until it has been run."""
    study = opened.study
    if not _is_waiting(study, control):
        marks = control_marks(control.label, control.recipe, control.depth)
        study.enqueue_trial({}, user_attrs=marks.to_attributes())
    while _is_waiting(study, control):  # trials that were queued before it come first
        run_trial(study, objective, on_finished)


def _is_waiting(study: Study, control: Control) -> bool:
    key = queries.recipe_key(control.recipe)
    return any(
        queries.recipe_key(queries.recipe_of(trial) or {}) == key
        for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    )


def evaluate_tfidf(opened: OpenStudy, objective: Objective) -> None:
    """Fits TF-IDF and a linear model, once for a study. Where nothing can be fitted, says so and goes on."""
    store = PredictionStore(opened.folder)
    if StudyRecord.of(opened.study).tfidf is not None and store.read(TFIDF) is not None:
        return
    from nasopt.tasks.tfidf import fit_tfidf

    context = objective.prepare(opened.study)
    task = context.task.labelled
    if task is None:
        return  # a bag of words says nothing of the similarity of two languages, and translates nothing
    context.on_phase("TF-IDF", 0, 0)
    try:
        result = fit_tfidf(task, context.splits)
    except ValueError as error:
        logger.warning("TF-IDF cannot be fitted: %s", str(error).splitlines()[0])
        return
    split = context.splits["validation"]
    classes = task.is_classification
    labels, positive = split.labels.numpy(), task.positive_class
    predictions = Predictions.of_outputs(result.outputs, labels, split.fingerprint, classes=classes, positive=positive)
    store.write(TFIDF, predictions)
    found = TfidfRecord(result.quality, opened.config.task.metric, result.seconds)
    StudyRecord(tfidf=found).write_to(opened.study)
