"""What the evolutionary samplers of nasopt share: a steady-state NSGA-II over all completed trials."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nasopt.identity import worker_identity
from nasopt.models.architecture import canonical
from nasopt.pareto import crowding_distance, non_domination_ranks
from nasopt.samplers.genotype import Genotype, Space, fit, is_own
from nasopt.samplers.history import (
    EXHAUSTED,
    PROPOSAL,
    SEED,
    WORKER,
    EliteFold,
    FloatArray,
    History,
    Preference,
    is_exhausted,
    is_fixed,
    parent_of,
    proposed_params,
)

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
"""Random children drawn before the systematic look for one that is not known."""
_FOREIGN_DRAWS = 16
"""The same where no parameter is a genotype's, and nothing can be looked through."""
_REVISIONS = 8
"""How often a proposal gives way to an equal one that another worker made at the same moment."""

InitialPopulation: TypeAlias = Callable[[int, Space, np.random.RandomState], Genotype | None]
"""`(position, space, rng)`: the genotype that trial number `position` starts with; None once the children begin."""

Selection: TypeAlias = Callable[[FloatArray, np.random.RandomState], int]
"""`(keys, rng)`: index of a parent; `keys` as the preference gives them, `(n_parents, n_keys)`."""


@dataclass(frozen=True)
class Parent:
    """One of the elite. `trial` is its number; None stands for the base model before any trial is complete."""

    trial: int | None
    genotype: Genotype


class Variation(Protocol):
    """Makes a child of a parent by mutation and crossover."""

    def __call__(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Genotype | None:
        """One child at random; None where these draws lead to none."""

    def neighbours(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Iterator[Genotype]:
        """Every child there can be, for the day on which random ones are all known."""


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


def trial_seed(seed: int | None, number: int) -> int:
    """The seed of one trial, below 2^48: a hash of the study's seed and the trial's number, or fresh for None.

    It depends on nothing else, so that a resumed study goes on as if it had not stopped, and workers differ.
    """
    if seed is None:
        return secrets.randbits(48)
    return int.from_bytes(hashlib.sha256(f"nasopt:{seed}:{number}".encode()).digest()[:6], "big")


class EvolutionSampler(NSGAIISampler):
    """Steady-state evolution of flat genotypes, on NSGA-II (Deb et al. 2002).

    Differences from :class:`optuna.samplers.NSGAIISampler`, whose operators still propose the parameters that are not a
    genotype's (see :func:`nasopt.samplers.genotype.is_own`):

    * Parents come from *all* completed trials, enqueued and late ones too: (mu + lambda) with lambda = 1. Trials join
      the elite in order of completion; who leaves it never returns, except where a trial of another worker that
      completed earlier is seen late.
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
        self._seed = seed
        self._size = population_size
        self._operators = operators
        self._lock = threading.RLock()
        self._history: tuple[Any, int, History] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_history")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._random_sampler._rng = self._rng
        self._lock = threading.RLock()
        self._history = None

    def elite(self, study: Study) -> list[FrozenTrial]:
        """The trials that are parents now, in order of completion, read fresh from the database. Not to be changed."""
        with self._lock:
            return list(self._history_of(study, use_cache=False).elite.trials)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # First of all, so that a trial whose process is killed at any later moment can be told from one under way.
        study._storage.set_trial_system_attr(trial._trial_id, WORKER, worker_identity())
        seed = trial.system_attrs.get(SEED)  # a retried trial has one already
        if seed is None:
            seed = trial_seed(self._seed, trial.number)
            study._storage.set_trial_system_attr(trial._trial_id, SEED, seed)
        self._rng.rng.seed([seed & 0xFFFFFFFF, seed >> 32])
        super().before_trial(study, trial)
        if is_fixed(trial) or PROPOSAL in trial.system_attrs:
            return
        # NOTE: proposed here and not with the first parameter, so that the objective knows the parent, and whether the
        # space is exhausted, before it does anything.
        with self._lock:
            history = self._history_of(study)
            if any(not distribution.single() for distribution in history.space.values()):
                self._propose(study, trial, history, history.space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        with self._lock:
            space = self._history_of(study).space
        # NOTE: Optuna gives a parameter with a single value that value without asking.
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        with self._lock:
            if is_fixed(trial):
                # What was not asked for: the base model's values of the genotype (`sample_independent`), others drawn.
                return self._draw_foreign(study, trial, self._history_of(study), search_space)
            if PROPOSAL in trial.system_attrs:
                params = trial.system_attrs[PROPOSAL]["params"]
            elif search_space:  # the trial did not come through `before_trial`
                params = self._propose(study, trial, self._history_of(study), search_space)
            else:
                params = {}
        return {name: value for name, value in params.items() if name in search_space}

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

    def _history_of(self, study: Study, use_cache: bool = True) -> History:
        if self._history is None or self._history[0] is not study._storage or self._history[1] != study._study_id:
            signs = np.array([-1.0 if item == StudyDirection.MAXIMIZE else 1.0 for item in study.directions])
            fold = EliteFold(self._size, self._operators.preference, signs)
            self._history = study._storage, study._study_id, History(fold)
        history = self._history[2]
        history.refresh(study._get_trials(deepcopy=False, use_cache=use_cache))
        return history

    def _propose(self, study: Study, trial: FrozenTrial, history: History, space: Space) -> dict[str, Any]:
        """Finds a child that is not known, and writes it and its parent to the trial before anyone else takes it."""
        for _ in range(_REVISIONS):
            params, parent, key, known = self._unknown_child(study, trial, history, space)
            proposal = {"parent": parent, "params": params, "known": known}
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, proposal)
            trial.system_attrs[PROPOSAL] = proposal  # the caller's copy, which `sample_relative` gets
            if history.is_known(key, trial.number):  # there was none left
                break
            # Workers that write first and look afterwards cannot both miss the other. Whether there are others is
            # part of the question, so this looks even where none was seen before.
            self._history_of(study, use_cache=False)
            if not history.is_known(key, trial.number):
                break
        if history.is_known(key, trial.number) and any(is_own(*item) for item in space.items()):
            study._storage.set_trial_system_attr(trial._trial_id, EXHAUSTED, True)
        return params

    def _unknown_child(
        self, study: Study, trial: FrozenTrial, history: History, space: Space
    ) -> tuple[dict[str, Any], int | None, Hashable, int]:
        """`(params, parent, key, known)` of a child that is not known, or where there is none, of the last one drawn.

        `known` is how many were drawn in vain before it.
        """
        own = {name: distribution for name, distribution in space.items() if is_own(name, distribution)}
        foreign = {name: distribution for name, distribution in space.items() if name not in own}
        last: tuple[dict[str, Any], int | None, Hashable, int] | None = None
        for drawn, (parent, genotype) in enumerate(self._children(history, own, trial.number)):
            parent = parent if self._operators.inherits else None
            params = fit(canonical(genotype), own)
            if foreign:
                params |= self._draw_foreign(study, trial, history, foreign)
            key = history.identity(params, parent)
            last = params, parent, key, drawn
            if not history.is_known(key, trial.number):
                break
        assert last is not None, "`_children` ends with a known child"
        return last

    def _children(self, history: History, own: Space, number: int) -> Iterator[tuple[int | None, Genotype]]:
        """Pairs of a parent's number and a child to try: at random first, then all there are, the best parent's first.

        At least one, if only a copy of a parent.
        """
        if not own:
            yield from repeat((None, {}), _FOREIGN_DRAWS)
            return
        rng, operators = self._rng.rng, self._operators
        initial = operators.initial(history.position(number), own, rng)
        if initial is not None:
            yield None, initial
        elite = history.elite
        keys = elite.keys if elite.trials else np.zeros((1, 1))

        def parent_at(index: int) -> Parent:
            if not elite.trials:
                return Parent(None, fit({}, own))
            return Parent(elite.trials[index].number, fit(elite.trials[index].params, own))

        for _ in range(_DRAWS):
            parent = parent_at(operators.select(keys, rng))
            child = operators.vary(parent, own, rng)
            if child is not None:
                yield parent.trial, child
        for index in np.lexsort(keys.T[::-1]):
            parent = parent_at(index)
            yield from zip(repeat(parent.trial), operators.vary.neighbours(parent, own, rng))
        yield parent.trial, parent.genotype

    def _draw_foreign(self, study: Study, trial: FrozenTrial, history: History, space: Space) -> dict[str, Any]:
        """Values of the parameters that are not the genotype's: by NSGA-II, at random until the elite is full."""
        names = {name: distribution for name, distribution in space.items() if not is_own(name, distribution)}
        searched = {name: distribution for name, distribution in names.items() if not distribution.single()}
        params: dict[str, Any] = {}
        elite = list(history.elite.trials)
        if searched and len(elite) >= self._size and all(searched.keys() <= member.params.keys() for member in elite):
            params = self._child_generation_strategy(study, searched, elite)
        for name in names.keys() - params.keys():
            params[name] = self._random_sampler.sample_independent(study, trial, name, names[name])
        return params
