"""AlphaNASSampler: evolves layer masks by bit flips.

Reference: METHODS.md, section 2 (AlphaNAS: evolution over an abstract property).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nasopt.records import names
from nasopt.records.queries import parameters_of
from nasopt.samplers.evolution import EvolutionSampler, Operators, Parent, pareto_preference, tournament
from nasopt.samplers.genotype import Genotype, Space, fit
from nasopt.samplers.history import FloatArray


def score(quality: ArrayLike, parameters: ArrayLike, parameter_penalty: float) -> FloatArray:
    """`Q_alpha = A - lambda * N`, larger is better.

    Args:
        quality: A, shape `(n,)`.
        parameters: N, shape `(n,)`.
        parameter_penalty: lambda, per parameter.
    """
    result: FloatArray = np.asarray(quality, dtype=np.float64) - parameter_penalty * np.asarray(parameters)
    return result


def score_preference(
    parameter_penalty: float, trials: Sequence[FrozenTrial], points: FloatArray, violations: FloatArray
) -> FloatArray:
    """Keys `(violation, -Q_alpha)`, shape `(n, 2)`.

    Raises:
        ValueError: a trial does not say its number of parameters.
    """
    parameters = []
    for trial in trials:
        count = parameters_of(trial)
        if count is None:
            raise ValueError(
                f'`selection="score"` needs the user attribute `{names.PARAMETERS}` (the number of weights) of every '
                f"complete trial, but trial {trial.number} has none."
            )
        parameters.append(count)
    return np.stack([violations, -score(-points[:, 0], parameters, parameter_penalty)], axis=1)


@dataclass(frozen=True)
class ThinnedMasks:
    """Gives the initial population: the full mask, then random layers of every depth.

    The depths 1 to L - 1 are cut into as many equal parts as there are masks, thin ones first, and each mask has a
    random depth of its part.
    """

    population_size: int

    def __call__(self, position: int, space: Space, rng: np.random.RandomState) -> Genotype | None:
        if position >= self.population_size:
            return None
        full = fit({}, space)
        bits = _bits(space)
        if position == 0 or len(bits) < 2:
            return full
        # NOTE: masks are drawn by depth, because random bits would nearly all keep about half of the layers; and in
        # parts, because the thin end of a front is found late, one bit at a time, if it is not seen at the start.
        part = (position - 1 + rng.rand()) / (self.population_size - 1)
        depth = 1 + int(part * (len(bits) - 1))
        removed = [str(name) for name in rng.permutation(bits)[depth:]]
        return {**full, **dict.fromkeys(removed, 0)}


@dataclass(frozen=True)
class BitFlips:
    """Makes a child of one parent by flipping some random bits; never the empty mask.

    The number of bits is drawn from 1 to `max_flips`, each equally likely.
    """

    max_flips: int

    def __call__(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Genotype | None:
        bits = _bits(space)
        count = rng.randint(1, min(self.max_flips, len(bits)) + 1)
        return _flipped(parent.genotype, [str(name) for name in rng.permutation(bits)[:count]])

    def neighbours(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Iterator[Genotype]:
        """Yields every mask there is, the nearest ones first."""
        bits = _bits(space)
        for count in range(1, len(bits) + 1):
            for flipped in combinations(bits, count):
                child = _flipped(parent.genotype, flipped)
                if child is not None:
                    yield child


def _bits(space: Space) -> list[str]:
    return [name for name in space if name.startswith("layer_")]


def _flipped(genotype: Genotype, names: Sequence[str]) -> Genotype | None:
    child = {**genotype, **{name: 1 - genotype[name] for name in names}}
    return child if any(child[name] for name in _bits(child)) else None


class AlphaNASSampler(EvolutionSampler):
    """Evolution of layer masks (docs/alphanas.md), on Optuna's NSGA-II.

    Parameters are `layer_0 .. layer_{L-1}` in {0, 1}; the empty mask is never proposed, a mask evaluated before never
    again. The first trial of an empty study is the full mask, the next ones are random masks of every depth, and every
    later one copies a survivor and flips a few bits. All weights come from the base model, so masks alone tell trials
    apart.

    Constraints are those that the objective sets with :meth:`optuna.trial.Trial.set_constraint`: trials that violate
    one survive only where better ones are lacking.

    Args:
        population_size:
            Size of the initial population, and number of survivors; at least 2.
        max_flips:
            The most bits that one mutation flips.
        selection:
            `"pareto"`: non-dominated sort and crowding distance. `"score"`: `Q_alpha = A - lambda * N`; the first
            direction must be maximize, and every complete trial needs the user attribute `parameters`.
        parameter_penalty:
            lambda, per parameter, for `selection="score"`.
        seed:
            Seed of the study. What a trial draws depends on it and on the trial's number only.

    Example:
        >>> import optuna
        >>> from nasopt.samplers import AlphaNASSampler
        >>> def objective(trial):
        ...     kept = sum(trial.suggest_int(f"layer_{layer}", 0, 1) for layer in range(4))
        ...     trial.set_constraint("at most three layers", kept - 3)
        ...     return kept / 4, 1.0 + kept
        >>> study = optuna.create_study(
        ...     directions=["maximize", "minimize"], sampler=AlphaNASSampler(population_size=4, seed=0)
        ... )
        >>> study.optimize(objective, n_trials=15)
        >>> len({tuple(trial.params.values()) for trial in study.trials})  # no mask twice
        15
    """

    def __init__(
        self,
        *,
        population_size: int = 8,
        max_flips: int = 2,
        selection: Literal["pareto", "score"] = "pareto",
        parameter_penalty: float = 1e-9,
        seed: int | None = None,
    ) -> None:
        if max_flips < 1:
            raise ValueError(f"`max_flips` must be at least 1, but got {max_flips}.")
        if selection not in ("pareto", "score"):
            raise ValueError(f'`selection` must be "pareto" or "score", but got {selection!r}.')
        operators = Operators(
            initial=ThinnedMasks(population_size),
            preference=pareto_preference if selection == "pareto" else partial(score_preference, parameter_penalty),
            select=tournament,
            vary=BitFlips(max_flips),
            inherits=False,
        )
        super().__init__(operators, population_size=population_size, seed=seed)
        self._selection = selection

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if self._selection == "score" and study.directions[0] != StudyDirection.MAXIMIZE:
            raise ValueError('`selection="score"` needs the first direction to be maximize (of quality).')
        super().before_trial(study, trial)
