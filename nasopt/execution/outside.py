"""Adds models that were made elsewhere to a study: looks at them before anything is trained, runs them as controls."""

from __future__ import annotations

import logging
from collections.abc import Callable

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.outside import OutsideModel
from nasopt.errors import EvaluationFailedError, HeadMismatchError, UnsupportedModelError
from nasopt.execution.controls import run_control
from nasopt.execution.search import run_base
from nasopt.methods.controls import Control
from nasopt.records import queries
from nasopt.records.outside import OutsideRecipe
from nasopt.study.opening import OpenStudy
from nasopt.study.recovery import recording_interruptions, settle_interrupted
from nasopt.trial.objective import Objective

logger = logging.getLogger("nasopt")


def examine(opened: OpenStudy, objective: Objective, source: str, revision: str | None, train: bool) -> OutsideRecipe:
    """The recipe of a model, which is found to do the study's task; nothing has been trained then.

    Args:
        opened: the study.
        objective: the study's.
        source: a folder, or an id on the hub.
        revision: branch, tag or commit on the hub.
        train: whether it is to be trained as long as the base model is; only then may it lack a head for the task.

    Raises:
        HeadMismatchError: its head is not of the study's labels, and it is not to be trained.
        UnsupportedModelError: it is not there, cannot do the task, or has no head for it and is not to be trained.
        NasoptError: its latency cannot be had as the candidates' are.
    """
    from nasopt.measurement.estimating import EstimatingSource
    from nasopt.models.loading import load_config
    from nasopt.tasks.datasets import content_hash, resolve_path
    from nasopt.tasks.opening import check_lengths, open_task
    from nasopt.training.outside import load

    task, model = open_task(opened.config, opened.folder), OutsideModel(resolve_path(source), revision)
    try:
        its = task.for_model(model)
    except HeadMismatchError:
        if not train:
            raise
        logger.warning("model %r: its head is not of the study's labels; a new one is trained", source)
        model = OutsideModel(model.source, revision, new_head=True)
        its = task.for_model(model)
    if not its.has_head and not train:
        raise UnsupportedModelError(
            f"model {source!r}: has no head for {opened.config.task.type}; pass --train to train one on the study's "
            f"data for the {opened.config.base_training.epochs} epochs of [base_training]"
        )
    check_lengths(opened.config, its)
    epochs = opened.config.base_training.epochs if train else 0
    content: str | None = content_hash(model.source)
    if content is None:  # on the hub a commit tells later changes
        content = getattr(load_config(model.source, revision, False), "_commit_hash", None)
    recipe = OutsideRecipe(model, content, epochs)
    _, architecture = load(model, its, opened.config.seed)
    for latency in objective.sources.values():
        if isinstance(latency, EstimatingSource):
            latency.check_outside(architecture)
    return recipe


def added(study: Study, recipe: OutsideRecipe) -> FrozenTrial | None:
    """The trial that has evaluated the same model, or is under way with it; None for none, or one that failed."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
    return next((t for t in trials if (known := queries.outside_of(t)) is not None and known.is_same(recipe)), None)


def add(
    opened: OpenStudy, objective: Objective, recipe: OutsideRecipe, on_finished: Callable[[FrozenTrial], None]
) -> FrozenTrial:
    """Evaluates a model as a control, with the base model before it if that has not been measured yet.

    One that was interrupted before is tried again; one that failed, too.

    Raises:
        EvaluationFailedError: it could not be trained, evaluated or measured.
        SearchFailedError: the base model could not be measured.
    """
    study = opened.study
    run_base(opened, objective)
    ended: list[FrozenTrial] = []

    def finished(trial: FrozenTrial) -> None:
        ended.append(trial)
        on_finished(trial)

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    found = [known for trial in waiting if (known := queries.outside_of(trial)) and known.is_same(recipe)]
    control = Control(recipe.label, (found[0] if found else recipe).to_json())
    with recording_interruptions(study):
        run_control(opened, objective, control, finished)
        settle_interrupted(study, opened.folder)
        objective.collect(study)
    mine = [trial for trial in ended if queries.outside_of(trial) is not None]
    if mine and mine[-1].state == TrialState.COMPLETE:
        return mine[-1]
    done = added(study, recipe)
    if done is not None:  # another process was faster
        return done
    reason = queries.failure_of(mine[-1]) if mine else None
    raise EvaluationFailedError(
        f"the model {recipe.model.source!r} could not be evaluated: {reason or 'it was interrupted'}"
    )
