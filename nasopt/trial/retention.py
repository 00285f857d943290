"""Decides which checkpoints and predictions of a study stay, and which nobody needs any more."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.samplers.history import parent_of
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.training.context import Context


def collect(study: optuna.Study, method: Method, context: Context) -> None:
    """Deletes what nobody needs.

    These checkpoints stay: those of possible parents and of the Pareto fronts with and without provisional trials,
    those in use, the latest control's, because the next control may only store it in another precision, and those of
    models from outside that were trained here, because they are nowhere else. These predictions stay: the fronts', the
    base model's and all controls'.
    """
    checkpoints = context.checkpoints
    with checkpoints.lock():
        trials = study.get_trials(deepcopy=False)
        front = [*queries.pareto_front(study), *queries.whole_front(study)]
        controls = queries.complete_controls(study)
        trained = [trial for trial in controls if (outside := queries.outside_of(trial)) and outside.epochs]
        users = [*possible_parents(study, method), *front, *controls[-1:], *trained]
        keep = {context.base_key, *(queries.checkpoint_of(trial) or "" for trial in users)}
        keep.update(_keys_in_use(trials))
        checkpoints.collect((queries.checkpoint_of(trial) or "" for trial in trials), keep)
        compared = {trial.number for trial in (*front, *controls)} | {
            0 if context.base is None else context.base.number
        }
        finished = (trial.number for trial in trials if trial.state.is_finished())
        PredictionStore(context.folder).collect(finished, compared)


def possible_parents(study: optuna.Study, method: Method) -> Sequence[FrozenTrial]:
    """Trials whose weights others may inherit: the sampler's elite, where a weight source of the method inherits."""
    if not any(source.needs_parents for source in method.about.sources):
        return ()
    elite = getattr(study.sampler, "elite", None)
    return () if elite is None else elite(study)


def _keys_in_use(trials: Sequence[FrozenTrial]) -> set[str]:
    """Checkpoints that trials under way, or waiting, have written or inherit from."""
    states = (TrialState.RUNNING, TrialState.WAITING)
    unfinished = [trial for trial in trials if trial.state in states]
    parents = {parent_of(trial) for trial in unfinished}
    users = [*unfinished, *(trials[number] for number in parents if number is not None)]
    return {queries.checkpoint_of(trial) or "" for trial in users}
