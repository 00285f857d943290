"""Questions to a study: which trials count, which is the base model, which no other one dominates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.base import Precision
from nasopt.numerics.pareto import pareto_mask
from nasopt.records.latency import Confirmation, confirmations_from_json
from nasopt.records.names import (
    BASE,
    CONFIRMED,
    CONTROL,
    INTERRUPTED,
    IS_BASE,
    PRECISION,
    REFERENCE_MARGIN,
    REFERENCE_POINT,
    RETRY_OF,
)


def confirmation_of(study: optuna.Study, number: int) -> dict[str, Confirmation] | None:
    """What was measured of a trial whose latencies were looked up, by objective; None if nothing was."""
    found = study.user_attrs.get(f"{CONFIRMED}{number}")
    return None if found is None else confirmations_from_json(found)


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """A control's recipe as a text that is the same for equal ones."""
    return json.dumps(recipe, sort_keys=True)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials a user counts: complete or failed, without the base model, controls and what was interrupted."""
    trials = study.get_trials(deepcopy=False)
    tried_again = retried(trials)
    return [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.FAIL)
        and not any(trial.user_attrs.get(mark) for mark in (IS_BASE, CONTROL, INTERRUPTED))
        and trial.number not in tried_again
    ]


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials that others are a second try of."""
    numbers = (trial.user_attrs.get(RETRY_OF) for trial in trials)
    return {number for number in numbers if number is not None}


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials without controls, the base model among them."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if CONTROL not in trial.user_attrs]


def complete_controls(study: optuna.Study) -> list[FrozenTrial]:
    """Complete controls, by number."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if CONTROL in trial.user_attrs]


def feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that violate no constraint."""
    return [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """Complete feasible trials, without controls, that no other one dominates, by number."""
    trials = feasible(complete_trials(study))
    if not trials:
        return []
    return [trial for trial, on in zip(trials, pareto_mask(minimised(trials, study)), strict=True) if on]


def precision_of(trial: FrozenTrial) -> Precision:
    """In which precision a complete trial's model is stored."""
    precision: Precision = trial.user_attrs.get(PRECISION) or trial.params.get("precision", "fp32")
    return precision


def base_of(study: optuna.Study) -> FrozenTrial | None:
    """The complete base trial; None before there is one. Fixes, once, what later trials are compared with."""
    number = study.user_attrs.get(BASE)
    if number is not None:
        base: FrozenTrial = study.get_trials(deepcopy=False)[number]
        return base
    for trial in complete_trials(study):
        if trial.user_attrs.get(IS_BASE):
            reference = [0.0, *[value * REFERENCE_MARGIN for value in trial.values[1:]]]
            study.set_user_attr(REFERENCE_POINT, reference)
            study.set_user_attr(BASE, trial.number)
            return trial
    return None


def minimised(trials: Sequence[FrozenTrial], study: optuna.Study) -> NDArray[np.float64]:
    """Values of complete trials, shape (trials, objectives), all minimised."""
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
    values = np.array([trial.values for trial in trials], dtype=np.float64)
    signed: NDArray[np.float64] = values.reshape(-1, len(signs)) * np.array(signs)
    return signed
