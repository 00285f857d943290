"""Questions to a study: the trials that count, the base model, the Pareto front.

The first functions read a single attribute of a trial, for loops over many trials; everything that a trial stores is in
:class:`nasopt.records.trial.TrialRecord`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from nasopt.architecture.base import Precision
from nasopt.numerics.pareto import knee_distances, pareto_mask
from nasopt.records import names
from nasopt.records.latency import Confirmation, Latencies, confirmations_from_json, latencies_from_json
from nasopt.records.outside import OutsideRecipe


def is_base(trial: BaseTrial) -> bool:
    """Whether the trial is one of the base model; others are compared with a complete one only."""
    return bool(trial.user_attrs.get(names.IS_BASE))


def is_control(trial: BaseTrial) -> bool:
    """Whether the trial is a control, which no sampler, budget or front counts."""
    return names.CONTROL in trial.user_attrs


def is_interrupted(trial: BaseTrial) -> bool:
    """Whether the trial was stopped before it ended."""
    return bool(trial.user_attrs.get(names.INTERRUPTED))


def is_rejected(trial: BaseTrial) -> bool:
    """Whether the candidate was not built because it breaks a constraint."""
    return names.REJECTED in trial.user_attrs


def is_provisional(trial: BaseTrial) -> bool:
    """Whether the trial's weights are a slice of a network trained for many candidates, and not healed."""
    return bool(trial.user_attrs.get(names.PROVISIONAL))


def is_screened(trial: BaseTrial) -> bool:
    """Whether the candidate was given up on a part of the validation split, because others are better."""
    return names.SCREENED in trial.user_attrs


def screening_of(trial: BaseTrial) -> str | None:
    """The reason why the candidate was given up on a part of the validation split."""
    reason: str | None = trial.user_attrs.get(names.SCREENED)
    return reason


def found_nothing(trial: BaseTrial) -> bool:
    """Whether the trial ended without a candidate because the sampler had nothing left to propose."""
    return bool(trial.user_attrs.get(names.EXHAUSTED))


def is_repeat(trial: BaseTrial) -> bool:
    """Whether the trial's values are those of an earlier one that had done the same work."""
    return names.REPEATS in trial.user_attrs


def original_of(trial: BaseTrial) -> int | None:
    """Number of the trial whose work this one would have done again."""
    number: int | None = trial.user_attrs.get(names.REPEATS)
    return number


def is_retry(trial: BaseTrial) -> bool:
    """Whether the trial tries an interrupted one again."""
    return names.RETRY_OF in trial.user_attrs


def stored_parent(trial: BaseTrial) -> int | None:
    """Number of the trial whose weights were, or are to be, inherited; a sampler's proposal does not count."""
    number: int | None = trial.user_attrs.get(names.PARENT)
    return number


def checkpoint_of(trial: BaseTrial) -> str | None:
    """Key of the trial's fp32 weights, which may have been removed."""
    key: str | None = trial.user_attrs.get(names.CHECKPOINT)
    return key


def latencies_of(trial: BaseTrial) -> Latencies:
    """The trial's latencies by objective; empty before they are known.

    Raises:
        StorageError: they cannot be read.
    """
    return latencies_from_json(trial.user_attrs.get(names.LATENCY) or {})


def parameters_of(trial: BaseTrial) -> int | None:
    """Number of the model's weights."""
    number: int | None = trial.user_attrs.get(names.PARAMETERS)
    return number


def recipe_of(trial: BaseTrial) -> Mapping[str, Any] | None:
    """The recipe of the control that the trial is; None if it is no control."""
    recipe: Mapping[str, Any] | None = trial.user_attrs.get(names.CONTROL_RECIPE)
    return recipe


def outside_of(trial: BaseTrial) -> OutsideRecipe | None:
    """The recipe of a control that was made elsewhere; None for every other trial."""
    return OutsideRecipe.of(recipe_of(trial))


def worker_of(trial: FrozenTrial) -> Mapping[str, Any] | None:
    """The process that runs the trial, else the one whose sampler asked for it; None if neither has said so yet."""
    worker: Mapping[str, Any] | None = trial.user_attrs.get(names.WORKER)
    return worker or trial.system_attrs.get(names.SAMPLER_WORKER)


def label_of(control: BaseTrial) -> str | None:
    """The kind of a control, in a word; None for a trial that is no control."""
    label: str | None = control.user_attrs.get(names.CONTROL)
    return label


def control_depth_of(control: BaseTrial) -> int | None:
    """The number of layers that a control keeps; None for one without layers."""
    depth: int | None = control.user_attrs.get(names.CONTROL_DEPTH)
    return depth


def failure_of(trial: BaseTrial) -> str | None:
    """The reason why the trial failed, on one line."""
    reason: str | None = trial.user_attrs.get(names.FAILURE)
    return reason


def detail_of(trial: BaseTrial, name: str) -> Any:
    """An attribute of the method's own; None if the trial has none of that name."""
    return trial.user_attrs.get(name)


def study_detail(study: optuna.Study, name: str) -> Any:
    """A study's attribute of the method's own; None if it has none of that name."""
    return study.user_attrs.get(name)


def confirmation_of(study: optuna.Study, number: int) -> dict[str, Confirmation] | None:
    """The measured latencies, by objective, of a trial whose latencies were looked up; None if none were measured.

    Raises:
        StorageError: they cannot be read.
    """
    stored = study.user_attrs.get(f"{names.CONFIRMED}{number}")
    return None if stored is None else confirmations_from_json(stored)


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """A control's recipe as a text that is the same for equal ones."""
    return json.dumps(recipe, sort_keys=True)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that a user counts: complete, screened or failed ones, without the base model, controls and interrupted
    ones."""
    trials = study.get_trials(deepcopy=False)
    tried_again = retried(trials)
    return [
        trial
        for trial in trials
        if (trial.state in (TrialState.COMPLETE, TrialState.FAIL) or is_screened(trial))
        and not (is_base(trial) or is_control(trial) or is_interrupted(trial))
        and trial.number not in tried_again
    ]


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials that were tried again."""
    numbers = (trial.user_attrs.get(names.RETRY_OF) for trial in trials)
    return {number for number in numbers if number is not None}


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials without controls, the base model among them."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if not is_control(trial)]


def final_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials that a user is shown as results: without controls and provisional ones."""
    return [trial for trial in complete_trials(study) if not is_provisional(trial)]


def complete_controls(study: optuna.Study) -> list[FrozenTrial]:
    """Complete controls, by number."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if is_control(trial)]


def outside_models(study: optuna.Study) -> list[FrozenTrial]:
    """Complete controls that were made elsewhere, by number."""
    return [trial for trial in complete_controls(study) if outside_of(trial) is not None]


def feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that violate no constraint."""
    return [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """The front that a user sees: final feasible trials that no other final one dominates, by number."""
    return not_dominated(final_trials(study), study)


def whole_front(study: optuna.Study) -> list[FrozenTrial]:
    """The front that a search goes on from: feasible trials, provisional ones among them, that none dominates."""
    return not_dominated(complete_trials(study), study)


def not_dominated(complete: Sequence[FrozenTrial], study: optuna.Study) -> list[FrozenTrial]:
    """The feasible ones of these trials that no other one of them dominates, in their order."""
    trials = feasible(complete)
    if not trials:
        return []
    return [trial for trial, on in zip(trials, pareto_mask(minimised(trials, study)), strict=True) if on]


def knee_of(study: optuna.Study, front: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The member of a front where giving up a little of one objective begins to cost much of another; never the base
    model. None if there is no member beside it.

    See :func:`nasopt.numerics.pareto.knee_distances`; the base model counts as an extreme where it is on the front.
    """
    base = base_of(study)
    found = [
        (distance, -trial.number, trial)
        for distance, trial in zip(knee_distances(minimised(front, study)), front, strict=True)
        if base is None or trial.number != base.number
    ]
    return max(found)[2] if found else None


def precision_of(trial: FrozenTrial) -> Precision:
    """The precision in which a complete trial's model is stored."""
    precision: Precision = trial.user_attrs.get(names.PRECISION) or trial.params.get("precision", "fp32")
    return precision


def base_of(study: optuna.Study) -> FrozenTrial | None:
    """The complete base trial; None before there is one."""
    number = study.user_attrs.get(names.BASE)
    if number is not None:
        base: FrozenTrial = study.get_trials(deepcopy=False)[number]
        return base
    return next((trial for trial in complete_trials(study) if is_base(trial)), None)


def reference_of(base: FrozenTrial) -> tuple[float, ...]:
    """The hypervolume's reference point by the base trial's values, in the units of the objectives."""
    return (0.0, *[value * names.REFERENCE_MARGIN for value in base.values[1:]])


def reference_point(study: optuna.Study) -> tuple[float, ...] | None:
    """The hypervolume's reference point as stored, else by the base trial's values; None before there is one."""
    stored = study.user_attrs.get(names.REFERENCE_POINT)
    if stored is not None:
        return tuple(stored)
    base = base_of(study)
    return None if base is None else reference_of(base)


def minimised(trials: Sequence[FrozenTrial], study: optuna.Study) -> NDArray[np.float64]:
    """Values of complete trials, shape (trials, objectives), all minimised."""
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
    values = np.array([trial.values for trial in trials], dtype=np.float64)
    signed: NDArray[np.float64] = values.reshape(-1, len(signs)) * np.array(signs)
    return signed
