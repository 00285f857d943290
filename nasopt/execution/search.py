"""The run loop of a search: the base model first, then trials until there is nothing left to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import SearchFailedError
from nasopt.execution.budget import Budget
from nasopt.execution.exhaustion import has_tried_everything, others_have_helped
from nasopt.execution.stopping import check_first_trials
from nasopt.host.files import lock_in
from nasopt.records import queries
from nasopt.records.study import fix_base
from nasopt.records.trial import TrialRecord
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.study.opening import OpenStudy
from nasopt.study.recovery import recording_interruptions, settle_interrupted, was_given_up
from nasopt.trial.objective import Objective

logger = logging.getLogger("nasopt")


def remaining_budget(opened: OpenStudy, budget: int) -> int:
    """The number of trials that are left of a whole search."""
    return max(0, budget - len(queries.finished_trials(opened.study)))


def run_base(opened: OpenStudy, objective: Objective) -> None:
    """Measures the base model as the study's first trial, unless that has been done.

    Raises:
        SearchFailedError: it failed; nothing can be compared without it.
    """
    study = opened.study
    if queries.base_of(study) is not None:
        return
    context = objective.prepare(study)
    # Under a lock, so that of two commands that start together one measures it, and the other compares with it.
    with lock_in(opened.folder, ".base.lock"), recording_interruptions(study):
        settle_interrupted(study, opened.folder)
        if queries.base_of(study) is None and not _waiting_bases(study):
            mark = TrialRecord(is_base=True).to_attributes()
            study.enqueue_trial(dict(objective.method.space(context.shape).base), user_attrs=mark)
        while queries.base_of(study) is None and _waiting_bases(study):
            study.optimize(objective, n_trials=1)
    if queries.base_of(study) is None:
        bases = [trial for trial in study.get_trials(deepcopy=False) if queries.is_base(trial)]
        reason = queries.failure_of(bases[-1]) or "unknown"
        raise SearchFailedError(f"the base model could not be measured: {reason}")
    fix_base(study)
    _warn_of_a_useless_base(opened)


def _warn_of_a_useless_base(opened: OpenStudy) -> None:
    """Says so, before hours are spent, where the base model has learnt nothing that a smaller model could lose."""
    base = queries.base_of(opened.study)
    assert base is not None
    predictions = PredictionStore(opened.folder).read(base.number)
    if predictions is not None and predictions.are_constant:
        fault = f"says the same of all {len(predictions.values)} validation examples"
    elif base.values[0] <= 0:
        fault = "gets nothing right"
    else:
        return
    logger.warning(
        "the base model %s (%s %.4f): whatever is found below it means nothing; change [base_training] (a lower "
        "learning_rate, more epochs) or the model, and create the study anew",
        fault,
        opened.config.task.metric,
        base.values[0],
    )


def _waiting_bases(study: optuna.Study) -> list[FrozenTrial]:
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial for trial in waiting if queries.is_base(trial)]


def run_trials(
    opened: OpenStudy,
    objective: Objective,
    take_ticket: Callable[[], bool],
    on_finished: Callable[[FrozenTrial], None],
    shared: int | None = None,
) -> None:
    """Runs trials one after another until there is no ticket left or the search is over.

    Args:
        take_ticket: is asked before each trial whether it may begin; shared by all workers.
        shared: trials of a whole search, if the study's budget counts, which other commands use up at the same time.
        on_finished: is told of each trial that ended.

    Raises:
        SearchFailedError: the first trials of the study failed, all for one reason.
    """
    study = opened.study
    objective.prepare(study)
    budget = Budget(study, opened.folder, shared)
    with recording_interruptions(study):
        while not is_over(opened, objective) and budget.is_left() and take_ticket():
            settle_interrupted(study, opened.folder)
            ended = run_trial(study, objective, on_finished, partial(_counts_in, study), budget)
            if ended is not None:
                check_first_trials(queries.finished_trials(study), ended)
        settle_interrupted(study, opened.folder)
        objective.collect(study)


def run_trial(
    study: optuna.Study,
    objective: Objective,
    on_finished: Callable[[FrozenTrial], None],
    counts: Callable[[FrozenTrial], bool] = lambda trial: True,
    budget: Budget | None = None,
) -> FrozenTrial | None:
    """Runs one trial, and as many more as it takes until one counts.

    Args:
        on_finished: is told of the one that counts.
        budget: is asked before each of them.

    Returns:
        The one that counts; None if the budget is used up, or this process stood still, and others have given its trial
        up.
    """

    def begin(trial: optuna.Trial) -> tuple[float, ...]:
        if budget is not None:
            budget.begun()
        return objective(trial)

    before = objective.trial_number
    ended: list[FrozenTrial] = []
    try:
        while not ended or not counts(ended[-1]):
            if budget is not None and not budget.take():
                return None
            try:
                study.optimize(begin, n_trials=1, callbacks=[lambda _, trial: ended.append(trial)])
            finally:
                if budget is not None:
                    budget.begun()
        on_finished(ended[-1])
        return ended[-1]
    except (UpdateFinishedTrialError, ValueError, AssertionError):  # Optuna has three ways to say so
        # A process that stood still (a suspended machine) may find that others have given its trial up.
        number = objective.trial_number
        if number == before or not was_given_up(study, number):
            raise
        logger.warning("trial %d: this process stood still and was taken for dead; the trial is tried again", number)
        return None


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the search: a rejected candidate has cost nothing, a control was left behind."""
    return not (queries.is_rejected(trial) or queries.is_control(trial))


def _counts_in(study: optuna.Study, trial: FrozenTrial) -> bool:
    """The same of a trial of this process; one that found nothing counts if nobody under way changes that."""
    return not others_have_helped(study, trial) if queries.found_nothing(trial) else _counts(trial)


def is_over(opened: OpenStudy, objective: Objective) -> str | None:
    """Says why no further trial is needed; None if one is."""
    study = opened.study
    if has_tried_everything(study):
        return "every genotype the method can reach has been tried"
    target = objective.method.plan.target_quality
    base = queries.base_of(study)
    if target is None or base is None:
        return None
    for trial in queries.feasible(queries.final_trials(study)):
        smaller_and_faster = all(mine < its for mine, its in zip(trial.values[1:], base.values[1:], strict=True))
        if trial.values[0] >= target and smaller_and_faster:
            return f"trial {trial.number} reaches the target quality {target:g} and is smaller and faster than the base"
    return None
