"""One of Optuna's own samplers, by name, made fit for studies that resume and have trials of other kinds.

Optuna's samplers draw the same values again when a study is resumed with the same seed, and workers with one seed draw
alike; here every trial has a seed of its own, a hash of the study's and the trial's number. And the base model and
controls have no parameters: an empty search space would be all that Optuna finds common to all trials, so its samplers
are not shown them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence
from typing import Any, Literal, TypeAlias

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nasopt.host.identity import worker_identity
from nasopt.records.names import SAMPLER_SEED, SAMPLER_WORKER
from nasopt.records.queries import is_control
from nasopt.samplers.proposing import trial_seed

SamplerName: TypeAlias = Literal["nsga2", "tpe", "gp", "random"]


def named_sampler(name: SamplerName, seed: int | None, population_size: int) -> BaseSampler:
    """One of Optuna's samplers for several objectives.

    Args:
        name: `nsga2` (Deb et al. 2002), `tpe` (Ozaki et al. 2022), `gp` or `random`.
        seed: decides its draws; None for fresh ones.
        population_size: NSGA-II's; as many trials are drawn at random before TPE and GP begin to model.
    """
    return NamedSampler(sampler_maker(name, population_size), seed)


def sampler_maker(name: SamplerName, population_size: int) -> Callable[[int], BaseSampler]:
    """Seed -> one of Optuna's samplers as it is; arguments as for :func:`named_sampler`."""
    makers: dict[SamplerName, Callable[[int], BaseSampler]] = {
        "nsga2": lambda seed: NSGAIISampler(population_size=population_size, seed=seed),
        "tpe": lambda seed: TPESampler(n_startup_trials=population_size, multivariate=False, seed=seed),
        "gp": lambda seed: GPSampler(n_startup_trials=population_size, seed=seed),
        "random": lambda seed: RandomSampler(seed=seed),
    }
    return makers[name]


class NamedSampler(BaseSampler):
    """One of Optuna's samplers, with a seed of its own for each trial; state comes from the database alone.

    Args:
        make: seed -> one of Optuna's samplers.
        seed: the study's.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int | None) -> None:
        self._make = make
        self._seed = seed
        self._current: tuple[int, BaseSampler] | None = None

    def reseed_rng(self) -> None:
        self._current = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        """The sampler of this trial."""
        if self._current is None or self._current[0] != trial._trial_id:
            seed = trial.system_attrs.get(SAMPLER_SEED)  # a retried trial has one already
            number = trial_seed(self._seed, trial.number) if seed is None else int(seed)
            self._current = (trial._trial_id, self._make(number & 0xFFFFFFFF))
        return self._current[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # This comes first, so that a trial whose process is killed at any later moment can be told from one under way.
        study._storage.set_trial_system_attr(trial._trial_id, SAMPLER_WORKER, worker_identity())
        if self._seed is not None and SAMPLER_SEED not in trial.system_attrs:
            study._storage.set_trial_system_attr(trial._trial_id, SAMPLER_SEED, trial_seed(self._seed, trial.number))
        self._of(trial).before_trial(_searched(study), trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if is_control(trial):
            return {}
        return self._of(trial).infer_relative_search_space(_searched(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if is_control(trial):
            return {}
        return self._of(trial).sample_relative(_searched(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(_searched(study), trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial).after_trial(_searched(study), trial, state, values)


class _SearchedStudy(Study):
    """A study without the finished trials that no search proposed."""

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in found if trial.params or not trial.state.is_finished()]


def _searched(study: Study) -> Study:
    view = copy.copy(study)
    view.__class__ = _SearchedStudy
    return view
