"""Controls of a study: which are missing, and running them as trials that no sampler, budget or front counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import TrialNotFoundError
from nasopt.execution.search import run_trial
from nasopt.methods.base import Control
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.storage.validation_predictions import TFIDF, Predictions, PredictionStore
from nasopt.study.opening import OpenStudy
from nasopt.study.recovery import recording_interruptions, settle_interrupted
from nasopt.trial.objective import Objective

logger = logging.getLogger("nasopt")


def members_of(opened: OpenStudy) -> list[FrozenTrial]:
    """The members of the Pareto front that a search has found: those that are not the base model.

    Raises:
        TrialNotFoundError: there is none, so that there is nothing to compare.
    """
    base = queries.base_of(opened.study)
    found = [trial for trial in queries.pareto_front(opened.study) if base is None or trial.number != base.number]
    if not found:
        name = opened.config.name
        raise TrialNotFoundError(
            f"the study {name!r} has found nothing yet that could be compared with controls: "
            f"run `nasopt study optimize {name}` first"
        )
    return found


def missing_controls(opened: OpenStudy, objective: Objective, random_masks: int) -> list[Control]:
    """The controls of the members of the Pareto front that have yet to be evaluated.

    Raises:
        NasoptError: what the user can mend (see :meth:`nasopt.trial.objective.Objective.prepare`).
    """
    study = opened.study
    context = objective.prepare(study)
    settle_interrupted(study, opened.folder)
    wanted = objective.method.controls(members_of(opened), context.shape, random_masks, opened.config.seed)
    return unsettled(study, wanted)


def unsettled(study: Study, controls: Sequence[Control]) -> list[Control]:
    """Those that have not been evaluated and did not fail: an interrupted one is tried again, a failed one is not."""
    trials = study.get_trials(deepcopy=False)
    tried_again = queries.retried(trials)
    settled = {
        queries.recipe_key(trial.user_attrs[attributes.CONTROL_RECIPE])
        for trial in trials
        if attributes.CONTROL_RECIPE in trial.user_attrs and _is_settled(trial) and trial.number not in tried_again
    }
    return [control for control in controls if queries.recipe_key(control.recipe) not in settled]


def _is_settled(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return not trial.user_attrs.get(attributes.INTERRUPTED)
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
            if not _is_waiting(study, control):
                marks = {
                    attributes.CONTROL: control.label,
                    attributes.CONTROL_RECIPE: control.recipe,
                    attributes.CONTROL_DEPTH: control.depth,
                }
                study.enqueue_trial({}, user_attrs=marks)
            while _is_waiting(study, control):  # what was queued before it comes first
                run_trial(study, objective, on_finished)
        settle_interrupted(study, opened.folder)
        objective.collect(study)


def _is_waiting(study: Study, control: Control) -> bool:
    key = queries.recipe_key(control.recipe)
    return any(
        queries.recipe_key(trial.user_attrs.get(attributes.CONTROL_RECIPE, {})) == key
        for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    )


def evaluate_tfidf(opened: OpenStudy, objective: Objective) -> None:
    """Fits TF-IDF and a linear model, once for a study. Where nothing can be fitted, says so and goes on."""
    store = PredictionStore(opened.folder)
    if attributes.TFIDF in opened.study.user_attrs and store.read(TFIDF) is not None:
        return
    from nasopt.tasks.classification import TextClassification
    from nasopt.tasks.tfidf import fit_tfidf

    context = objective.prepare(opened.study)
    if not isinstance(context.task, TextClassification):
        return  # a bag of words says nothing of the similarity of two languages, and translates nothing
    context.on_phase("TF-IDF", 0, 0)
    try:
        result = fit_tfidf(context.task, context.splits)
    except ValueError as error:
        logger.warning("TF-IDF cannot be fitted: %s", str(error).splitlines()[0])
        return
    split = context.splits["validation"]
    classes = context.task.is_classification
    store.write(TFIDF, Predictions.of_outputs(result.outputs, split.labels.numpy(), split.fingerprint, classes=classes))
    found = {"quality": result.quality, "metric": opened.config.task.metric, "seconds": result.seconds}
    opened.study.set_user_attr(attributes.TFIDF, found)
