"""FisherSampler: a ladder of sub-networks, then the healing of its best, then what one of Optuna's samplers proposes.

Reference: METHODS.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasopt.records.names import LADDER, PROPOSAL
from nasopt.records.queries import complete_trials, is_control, not_dominated, study_detail
from nasopt.samplers.history import is_fixed, proposed_params
from nasopt.samplers.named import NamedSampler

_Proposal: TypeAlias = tuple[int | None, dict[str, Any]]
"""The trial whose weights are taken as they are, or None, and parameters."""
_REVISIONS = 8
"""How often a proposal gives way to an equal one that another worker made at the same moment."""


class FisherSampler(NamedSampler):
    """Proposes given trials first, one after the other, each once (docs/fisher.md).

    Then, for every untrained member of the front but the base model, its parameters with those of `healing` in their
    places. The weights of every healed member (of the untrained one, where healing made it no better), and of the base
    model, come once more in each other precision, which trains nothing, and so before the next member is healed. The
    front of all this is that of the trials in the base model's precision, provisional ones counted: a member that only
    other precisions dominate is healed, too.
    Then one of Optuna's samplers goes on, which has seen all of them. State comes from the database alone.

    Args:
        make: seed -> one of Optuna's samplers.
        seed: the study's.
        first: the parameters of the trials that come first; the very first, which must be there, are the base model's.
            Where they have no `training`, nothing is healed. Where the study has a ladder of its own
            (:data:`nasopt.records.names.LADDER`), that one stands for the others.
        healing: the parameters in which a healed trial differs from the untrained one.
        precisions: those in which models are stored once more; not the base model's.

    Example:
        >>> import optuna
        >>> from nasopt.samplers import FisherSampler
        >>> def objective(trial):
        ...     share = trial.suggest_float("share", 0.1, 1.0, log=True)
        ...     training = trial.suggest_categorical("training", ["none", "distill"])
        ...     return share if training == "none" else share**0.5, 10.0 * share
        >>> ladder = [{"share": share, "training": "none"} for share in (1.0, 0.5, 0.25)]
        >>> sampler = FisherSampler(lambda seed: optuna.samplers.RandomSampler(seed=seed), 0, ladder)
        >>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        >>> study.optimize(objective, n_trials=5)
        >>> [(trial.params["share"], trial.params["training"]) for trial in study.trials[:3]]
        [(1.0, 'none'), (0.5, 'none'), (0.25, 'none')]
        >>> {trial.params["training"] for trial in study.trials[3:]}  # the rungs of the front, healed
        {'distill'}
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int | None,
        first: Sequence[Mapping[str, Any]],
        healing: Mapping[str, Any] = MappingProxyType({"training": "distill"}),
        precisions: Sequence[str] = (),
    ) -> None:
        super().__init__(make, seed)
        self._first = [dict(params) for params in first]
        self._healing = dict(healing)
        self._precisions = tuple(precisions)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        if is_fixed(trial) or is_control(trial) or PROPOSAL in trial.system_attrs:
            return
        for _ in range(_REVISIONS):
            others = [other for other in study._get_trials(deepcopy=False) if other.number != trial.number]
            found = self._next(study, {_key(other) for other in others})
            if found is None:
                break
            parent, params = found
            proposal = {"parent": parent, "params": params, "known": 0}
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

    def _next(self, study: Study, known: set[Hashable]) -> _Proposal | None:
        """The first of the given trials, then of those that follow from them, that no trial has done or is doing."""
        ladder = study_detail(study, LADDER)
        first = self._first if ladder is None else [self._first[0], *ladder]
        proposals = [*((None, params) for params in first), *self._stored_again(study), *self._healed(study)]
        return next((proposal for proposal in proposals if _identity(proposal[1]) not in known), None)

    def elite(self, study: Study) -> list[FrozenTrial]:
        """The trials whose weights may be stored once more: the base model, and what the front has that is settled.

        A member is settled when it is healed, or when it is still there and what it became by healing is not.
        """
        own = self._own(study) if self._precisions else []
        front = not_dominated(own, study)
        gone = {_identity(trial.params) for trial in own} - {_identity(trial.params) for trial in front}
        settled = {
            trial.number
            for trial in front
            if _is_trained(trial) or _identity({**trial.params, **self._healing}) in gone
        }
        return [trial for trial in own if trial.params == self._first[0] or trial.number in settled]

    def _own(self, study: Study) -> list[FrozenTrial]:
        """The complete trials in the base model's precision, with its parameters."""
        base = self._first[0]
        return [
            trial
            for trial in complete_trials(study)
            if trial.params.keys() == base.keys() and trial.params.get("precision") == base.get("precision")
        ]

    def _stored_again(self, study: Study) -> Iterator[_Proposal]:
        """The same weights in every other precision."""
        for trial in self.elite(study):
            for precision in self._precisions:
                yield trial.number, {**trial.params, "precision": precision}

    def _healed(self, study: Study) -> Iterator[_Proposal]:
        """The untrained members of the front, distilled."""
        for trial in not_dominated(self._own(study), study):
            if trial.params.get("training") == "none" and trial.params != self._first[0]:
                yield None, {**trial.params, **self._healing}


def _proposed(trial: FrozenTrial) -> Mapping[str, Any]:
    params: Mapping[str, Any] = trial.system_attrs.get(PROPOSAL, {}).get("params", {})
    return params


def _is_trained(trial: FrozenTrial) -> bool:
    return bool(trial.params.get("training", "none") != "none")


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
