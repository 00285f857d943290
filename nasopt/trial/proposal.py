"""Turns a trial into the candidate that it describes, or finds the earlier trial that has done the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.encoder import Architecture
from nasopt.errors import CheckpointError
from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.records.outside import OutsideRecipe
from nasopt.records.trial import TrialRecord
from nasopt.samplers.history import parent_of
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context, Parent
from nasopt.trial.rebuilding import restore_of
from nasopt.trial.repetition import DoneWork


def propose(trial: optuna.Trial, method: Method, context: Context, done: DoneWork) -> Candidate | FrozenTrial:
    """The candidate that a trial describes, trained; or the complete trial that has done the same work.

    Raises:
        RejectedCandidateError: it breaks a constraint that needs no training to be known.
    """
    recipe = queries.recipe_of(trial)
    if recipe is not None:
        return _control(recipe, trial, method, context)
    space = method.space(context.shape)
    if not space.base and context.base is None:
        return base_candidate(context)
    params = space.suggest(trial)
    known = done.get(trial, params, context)
    if known is not None:
        return known
    parent = _parent(trial)
    if params == space.base and parent is None:
        return base_candidate(context)
    context = context.for_trial(trial.number, parent)
    return method.weights(params, context).candidate(method.architecture(params, context), context)


def base_candidate(context: Context) -> Candidate:
    """The base model itself."""
    return Candidate(context.base_model, Architecture.full(context.shape), Lineage())


def _parent(trial: optuna.Trial) -> Parent | None:
    number = parent_of(trial)
    if number is None:
        return None
    # `trial.study` knows finished trials by number; the copy is avoided because a study may hold thousands.
    record = TrialRecord.of(trial.study.get_trials(deepcopy=False)[number])
    return Parent(number, record.checkpoint or "", lineage_of(record))


def lineage_of(record: TrialRecord) -> Lineage:
    """The training behind a trial's weights."""
    epochs = (record.finetune_epochs or 0, record.distill_epochs or 0, record.search_epochs or 0)
    return Lineage(record.parent, *epochs, budget=record.training_budget or 0.0)


def _control(recipe: Mapping[str, Any], trial: optuna.Trial, method: Method, context: Context) -> Candidate:
    """The control of a recipe; stored in another precision only, if it has been trained before."""
    context = context.for_trial(trial.number, None)
    outside = OutsideRecipe.of(recipe)
    if outside is not None:
        from nasopt.training.outside import outside_candidate

        return outside_candidate(outside, context)
    assert method.controls is not None
    architecture, source = method.controls.make(recipe, context)
    for other in _alike(recipe, trial.study, context):
        try:
            weights, stored = context.checkpoints.read(queries.checkpoint_of(other) or "")
        except CheckpointError:
            continue
        model = restore_of(method)(stored, weights, context.task.load_model())
        lineage = replace(lineage_of(TrialRecord.of(other)), parent=context.base_lineage.parent)
        return Candidate(model, architecture, lineage)
    return source.candidate(architecture, context)


def _alike(recipe: Mapping[str, Any], study: optuna.Study, context: Context) -> list[FrozenTrial]:
    """Complete controls that differ in nothing but the precision and whose weights are there, latest first."""
    wanted = queries.recipe_key({**recipe, "precision": None})
    return [
        other
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[::-1]
        if (theirs := queries.recipe_of(other)) is not None
        and (queries.checkpoint_of(other) or "") in context.checkpoints
        and queries.recipe_key({**theirs, "precision": None}) == wanted
    ]
