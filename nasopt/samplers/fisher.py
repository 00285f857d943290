"""FisherSampler: a ladder of sub-networks, then the healing of its best, then what one of Optuna's samplers proposes.

Reference: METHODS.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasopt.records.names import LADDER, PROPOSAL
from nasopt.records.queries import is_control, study_detail, whole_front
from nasopt.samplers.history import is_fixed, proposed_params
from nasopt.samplers.named import NamedSampler

_REVISIONS = 8
"""How often a proposal gives way to an equal one that another worker made at the same moment."""


class FisherSampler(NamedSampler):
    """Proposes given trials first, one after the other, each once; see the module.

    Then, for every untrained member of the Pareto front but the base model, its parameters with those of
    `healing` in their places; provisional trials count for this front.
    Then one of Optuna's samplers goes on, which has seen all of them. State comes from the database alone.

    Args:
        make: seed -> one of Optuna's samplers.
        seed: the study's.
        first: the parameters of the trials that come first; the very first, which must be there, are the base model's.
            Where they have no `training`, nothing is healed. Where the study has a ladder of its own
            (:data:`nasopt.records.names.LADDER`), that one stands for the others.
        healing: the parameters in which a healed trial differs from the untrained one.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int | None,
        first: Sequence[Mapping[str, Any]],
        healing: Mapping[str, Any] = MappingProxyType({"training": "distill"}),
    ) -> None:
        super().__init__(make, seed)
        self._first = [dict(params) for params in first]
        self._healing = dict(healing)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        if is_fixed(trial) or is_control(trial) or PROPOSAL in trial.system_attrs:
            return
        for _ in range(_REVISIONS):
            others = [other for other in study._get_trials(deepcopy=False) if other.number != trial.number]
            params = self._next(study, {_key(other) for other in others})
            if params is None:
                break
            proposal = {"parent": None, "params": params, "known": 0}
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, proposal)
            trial.system_attrs[PROPOSAL] = proposal  # the caller's copy
            # Workers that write first and look afterwards cannot both miss the other; the later trial gives way.
            earlier = study._get_trials(deepcopy=False)[: trial.number]
            if all(_key(other) != _key(trial) for other in earlier):
                break

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # NOTE: Optuna's sampler is asked in any case: NSGA-II notes the trial's generation then.
        drawn = super().sample_relative(study, trial, search_space)
        wanted = {name: item for name, item in _proposed(trial).items() if name in search_space}
        return {**drawn, **{name: item for name, item in wanted.items() if _fits(item, search_space[name])}}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        proposed = _proposed(trial)
        if param_name in proposed and _fits(proposed[param_name], param_distribution):
            return proposed[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)

    def _next(self, study: Study, known: set[Hashable]) -> dict[str, Any] | None:
        """The first of the given trials, then of the healed ones, that no trial has done or is doing."""
        ladder = study_detail(study, LADDER)
        first = self._first if ladder is None else [self._first[0], *ladder]
        return next((params for params in [*first, *self._healed(study)] if _identity(params) not in known), None)

    def _healed(self, study: Study) -> Iterator[dict[str, Any]]:
        """The untrained members of the front, distilled."""
        base = self._first[0]
        for trial in whole_front(study):
            if trial.params.keys() == base.keys() and trial.params.get("training") == "none" and trial.params != base:
                yield {**trial.params, **self._healing}


def _proposed(trial: FrozenTrial) -> Mapping[str, Any]:
    params: Mapping[str, Any] = trial.system_attrs.get(PROPOSAL, {}).get("params", {})
    return params


def _key(trial: FrozenTrial) -> Hashable:
    """What a trial does, or is going to do; None for controls, whatever they do."""
    return None if is_control(trial) else _identity({**proposed_params(trial), **trial.params})


def _identity(params: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


def _fits(value: Any, distribution: BaseDistribution) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False
