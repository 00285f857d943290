"""The base class of nasopt's evolutionary samplers: a steady-state NSGA-II over all completed trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasopt.numerics.pareto import crowding_distance, non_domination_ranks
from nasopt.samplers.genotype import Genotype, Space, fit, is_own
from nasopt.samplers.history import (
    EliteFold,
    FloatArray,
    History,
    Preference,
    is_exhausted,
    is_fixed,
    parent_of,
    proposed_params,
)
from nasopt.samplers.proposing import FOREIGN_DRAWS, ProposingSampler, trial_seed

__all__ = [
    "EvolutionSampler",
    "InitialPopulation",
    "Operators",
    "Parent",
    "Preference",
    "Selection",
    "Variation",
    "is_exhausted",
    "parent_of",
    "pareto_preference",
    "proposed_params",
    "tournament",
    "trial_seed",
]

_DRAWS = 64
"""The number of random children drawn before the systematic look for one that is not known."""

InitialPopulation: TypeAlias = Callable[[int, Space, np.random.RandomState], Genotype | None]
"""`(position, space, rng)` -> the genotype that trial number `position` starts with; None once the children begin."""

Selection: TypeAlias = Callable[[FloatArray, np.random.RandomState], int]
"""`(keys, rng)` -> the index of a parent; `keys` are those of the preference, `(n_parents, n_keys)`."""


@dataclass(frozen=True)
class Parent:
    """A member of the elite. `trial` numbers the trial whose weights its children inherit; None: the base model's."""

    trial: int | None
    genotype: Genotype


class Variation(Protocol):
    """Makes a child of a parent by mutation and crossover."""

    def __call__(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Genotype | None:
        """One child at random; None where these draws lead to none."""

    def neighbours(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Iterator[Genotype]:
        """Yields every child there can be; asked when all random ones are known."""


@dataclass(frozen=True)
class Operators:
    """The replaceable parts of an evolution, in the order they are used."""

    initial: InitialPopulation
    preference: Preference
    select: Selection
    vary: Variation
    inherits: bool = True
    """Whether a child starts from its parent's weights, so that the parent is part of what makes it known."""


def pareto_preference(trials: Sequence[FrozenTrial], points: FloatArray, violations: FloatArray) -> FloatArray:
    """Keys `(rank, -crowding distance)`, shape `(n, 2)`: NSGA-II's crowded comparison, under constraints."""
    ranks = non_domination_ranks(points, violations)
    return np.stack([ranks, -crowding_distance(points, ranks)], axis=1)


def tournament(keys: FloatArray, rng: np.random.RandomState) -> int:
    """Binary tournament: the better of two drawn at random, the first of two equals."""
    first, second = (int(index) for index in rng.randint(len(keys), size=2))
    return second if tuple(keys[second]) < tuple(keys[first]) else first


class EvolutionSampler(ProposingSampler, NSGAIISampler):
    """Steady-state evolution of flat genotypes, on NSGA-II (Deb et al. 2002).

    Differences from :class:`optuna.samplers.NSGAIISampler`, whose operators still propose the parameters that are not a
    genotype's (see :func:`nasopt.samplers.genotype.is_own`):

    * Parents come from *all* completed trials, enqueued and late ones too: (mu + lambda) with lambda = 1. Trials join
      the elite in order of completion; a trial that leaves it never returns, except where a trial of another worker
      that completed earlier is seen late.
    * A known child (same canonical genotype, training and parent) is never proposed. When none is left, the trial gets
      the system attribute `nasopt:exhausted` and a known point: see :func:`nasopt.samplers.history.is_exhausted`.
    * The random numbers of a trial depend on `seed` and the trial's number only; the seed is recorded in the trial.
    * State comes from the database alone, and the cost of a trial does not grow with their number.
    * A child and its parent are written at once: see :func:`nasopt.samplers.history.parent_of`.

    Until trials of a new study have begun to name their parameters, nothing is known of the space, and every trial
    gets the initial population's values one by one: run the first trial alone.

    Args:
        operators:
            Initial population, preference, selection and variation.
        population_size:
            Size of the elite, from which parents are taken; at least 2.
        seed:
            Seed of the study, below 2^32. :obj:`None` takes fresh entropy for every trial.
    """

    def __init__(self, operators: Operators, *, population_size: int, seed: int | None = None) -> None:
        super().__init__(population_size=population_size, seed=seed)
        self._random_sampler._rng = self._rng  # one stream of random numbers, seeded in `before_trial`
        self._start(seed)
        self._size = population_size
        self._operators = operators

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._random_sampler._rng = self._rng

    def elite(self, study: Study) -> list[FrozenTrial]:
        """The trials that are parents now, in order of completion, read fresh from the database; do not change them."""
        with self._lock:
            return list(self._history_of(study, use_cache=False).elite.trials)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if not is_own(param_name, param_distribution):
            return super().sample_independent(study, trial, param_name, param_distribution)
        space = {param_name: param_distribution}
        if is_fixed(trial):
            return fit({}, space)[param_name]
        with self._lock:
            position = self._history_of(study).position(trial.number)
        return fit(self._operators.initial(position, space, self._rng.rng) or {}, space)[param_name]

    def _variation(self, study: Study) -> Variation:
        """The variation for this study."""
        return self._operators.vary

    def _new_history(self, signs: FloatArray) -> History:
        return History(EliteFold(self._size, self._operators.preference, signs))

    def _children(
        self, study: Study, history: History, own: Space, number: int
    ) -> Iterator[tuple[int | None, Genotype]]:
        """Yields pairs of a parent's number and a child: random ones, then all there are, the best parent's first.

        There is at least one, if only a copy of a parent.
        """
        if not own:
            yield from repeat((None, {}), FOREIGN_DRAWS)
            return
        rng, operators, vary = self._rng.rng, self._operators, self._variation(study)
        initial = operators.initial(history.position(number), own, rng)
        if initial is not None:
            yield None, initial
        elite = history.elite
        keys = elite.keys if elite.trials else np.zeros((1, 1))

        def parent_at(index: int) -> Parent:
            if not elite.trials:
                return Parent(None, fit({}, own))
            number = elite.trials[index].number if operators.inherits else None
            return Parent(number, fit(elite.trials[index].params, own))

        for _ in range(_DRAWS):
            parent = parent_at(operators.select(keys, rng))
            child = vary(parent, own, rng)
            if child is not None:
                yield parent.trial, child
        for index in np.lexsort(keys.T[::-1]):
            parent = parent_at(index)
            yield from zip(repeat(parent.trial), vary.neighbours(parent, own, rng))
        yield parent.trial, parent.genotype

    def _draw_foreign(self, study: Study, trial: FrozenTrial, history: History, space: Space) -> dict[str, Any]:
        """Values of the parameters that are not the genotype's, by NSGA-II; at random until the elite is full."""
        names = {name: distribution for name, distribution in space.items() if not is_own(name, distribution)}
        searched = {name: distribution for name, distribution in names.items() if not distribution.single()}
        params: dict[str, Any] = {}
        elite = list(history.elite.trials)
        if searched and len(elite) >= self._size and all(searched.keys() <= member.params.keys() for member in elite):
            params = self._child_generation_strategy(study, searched, elite)
        for name in names.keys() - params.keys():
            params[name] = self._random_sampler.sample_independent(study, trial, name, names[name])
        return params
