"""GeneticSampler: proposes children of compressed models by pruning, quantisation and distillation.

Reference: METHODS.md, section 1 (Genetic: hardware-aware evolution of compressed BERT models).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from optuna.distributions import CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nasopt.architecture.base import Training
from nasopt.architecture.genotype import canonical
from nasopt.records import queries
from nasopt.records.names import LADDER
from nasopt.samplers.evolution import EvolutionSampler, Operators, Parent, pareto_preference, tournament
from nasopt.samplers.genotype import Genotype, Space, fit
from nasopt.samplers.guidance import Guide, guide_of
from nasopt.samplers.history import FloatArray, History, parent_of
from nasopt.samplers.mutations import Limits, Mutation, OwnMutation, quantize, remove_last

LOWEST_QUALITY = 1e-6
"""F clips Q to this: a correlation may be zero or negative."""

_LOWEST_COST = float(np.finfo(np.float64).tiny)
_BLIND_DRAWS = 16
"""The number of tries of a mutation that cannot list its outcomes, in the systematic look for an unknown child."""


def log_fitness(values: ArrayLike, exponents: Sequence[float] = (5.0, 1.0, 1.0)) -> FloatArray:
    """`a ln Q - b ln T - c ln M`, shape `(n,)`: ranks as F does, whatever the population.

    Args:
        values: `(n, n_objectives)`, in the order quality (maximised), one or more latencies, memory (minimised).
            T is the product of the latencies. Q is clipped to :data:`LOWEST_QUALITY` from below.
        exponents: `(a, b, c)`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 3:
        raise ValueError(f"`values` must have shape (n, 3 or more): quality, latency, memory; but got {array.shape}.")
    a, b, c = exponents
    costs = np.log(np.maximum(array[:, 1:], _LOWEST_COST))
    quality = np.log(np.maximum(array[:, 0], LOWEST_QUALITY))
    result: FloatArray = a * quality - b * costs[:, :-1].sum(axis=1) - c * costs[:, -1]
    return result


def fitness(values: ArrayLike, exponents: Sequence[float] = (5.0, 1.0, 1.0)) -> FloatArray:
    """`F = (Q / Q_max)^a * (T_min / T)^b * (M_min / M)^c` over the population `values`; shape `(n,)`, larger is better.

    Arguments as for :func:`log_fitness`. Q_max, T_min and M_min are each the best of the population.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0:
        return np.zeros(0)
    logarithms = log_fitness(array, exponents)
    latency = np.prod(np.maximum(array[:, 1:-1], _LOWEST_COST), axis=1, keepdims=True)
    ideal = [[array[:, 0].max(), latency.min(), array[:, -1].min()]]
    scaled: FloatArray = np.exp(logarithms - log_fitness(ideal, exponents))
    return scaled


def fitness_preference(
    exponents: Sequence[float], trials: Sequence[FrozenTrial], points: FloatArray, violations: FloatArray
) -> FloatArray:
    """Keys `(violation, -ln F)`, shape `(n, 2)`; `points` are `(n, n_objectives)`, quality negated, all minimised."""
    values = np.hstack([-points[:, :1], points[:, 1:]])
    return np.stack([violations, -log_fitness(values, exponents)], axis=1)


def full_first(position: int, space: Space, rng: np.random.RandomState) -> Genotype | None:
    """Gives the initial population: the base model itself, and only children after it."""
    return fit({}, space) if position == 0 else None


@dataclass(frozen=True)
class GeneticVariation:
    """Makes a child by mutation (pruning or restoring), quantisation and crossover, at least one of them.

    Each happens with its own probability; draws in which none does are repeated. Crossover is training against the
    base model and leaves the architecture alone: it makes the child's `training` "distill". A mutation without it means
    "finetune", a change of precision alone "none".

    Where children do not inherit (`inherits` is false), `training` says how their weights are made from the base
    model's: a mutation without crossover means "none", a change of precision alone what the parent says.
    """

    mutations: tuple[Mutation, ...]
    mutation_prob: float
    quantization_prob: float
    crossover_prob: float
    inherits: bool = True

    def guided(self, guide: Guide) -> GeneticVariation:
        """The same variation with what a study knows of its blocks."""
        own = (item.guided(guide) if isinstance(item, OwnMutation) else item for item in self.mutations)
        return replace(self, mutations=tuple(own))

    def __call__(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Genotype | None:
        probabilities = (self.mutation_prob, self.quantization_prob, self.crossover_prob)
        happens = rng.rand(3) < probabilities
        while not happens.any():
            happens = rng.rand(3) < probabilities
        mutates, quantizes, crosses = happens
        child: Genotype | None = dict(parent.genotype)
        if mutates and child is not None:
            child = self.mutations[rng.randint(len(self.mutations))](child, space, rng)
        if quantizes and child is not None:
            child = quantize(child, space, rng)
        return None if child is None else self._trained(child, space, bool(mutates), bool(crosses))

    def neighbours(self, parent: Parent, space: Space, rng: np.random.RandomState) -> Iterator[Genotype]:
        """Yields every child there can be, the smallest steps first; only some where a mutation lists no outcomes."""
        for crosses in _cases(self.crossover_prob):
            for mutates in _cases(self.mutation_prob):
                pruned = self._outcomes(parent.genotype, space, rng) if mutates else iter([parent.genotype])
                for genotype in pruned:
                    for quantizes in _cases(self.quantization_prob):
                        if not (crosses or mutates or quantizes):
                            continue
                        for child in quantize.outcomes(genotype, space) if quantizes else [genotype]:
                            trained = self._trained(child, space, mutates, crosses)
                            if trained is not None:
                                yield trained

    def _outcomes(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Iterator[Genotype]:
        for mutation in self.mutations:
            if isinstance(mutation, OwnMutation):
                yield from mutation.outcomes(genotype, space)
            else:
                tries = (mutation(dict(genotype), space, rng) for _ in range(_BLIND_DRAWS))
                yield from (child for child in tries if child is not None)

    def _trained(self, genotype: Genotype, space: Space, mutates: bool, crosses: bool) -> Genotype | None:
        """The child with the training that its operators imply; None where the space does not offer that training."""
        distribution = space.get("training")
        if distribution is None:
            return genotype
        assert isinstance(distribution, CategoricalDistribution)
        training: Training = "distill" if crosses else "finetune" if mutates else "none"
        if not (self.inherits or crosses):
            training = "none" if mutates else genotype["training"]
        return {**genotype, "training": training} if training in distribution.choices else None


def _cases(probability: float) -> list[bool]:
    """The possible answers to whether something of this probability happens, "no" first."""
    return [happens for happens in (False, True) if (probability > 0 if happens else probability < 1)]


class GeneticSampler(EvolutionSampler):
    """Hardware-aware evolution of compressed models (docs/genetic.md), on Optuna's NSGA-II.

    The first trial of an empty study is the full genotype. If the study has a ladder
    (:data:`nasopt.records.names.LADDER`), its genotypes come next, untrained children of the base model; then of each
    the same genotype, distilled, as soon as it has completed. Every other one is a child of a completed trial, drawn
    from the elite by binary tournament; the parent's number stands in it
    (:func:`nasopt.samplers.history.parent_of`), unless nothing is inherited. Mutations that are guided read the study's
    guide (:data:`nasopt.records.names.GUIDANCE`). Parameters that are not the genotype's are proposed by NSGA-II's
    operators.

    Args:
        population_size:
            Size of the elite, from which parents are taken; at least 2.
        mutation_prob:
            Probability that a child is pruned, or restored, by one of `mutations`.
        quantization_prob:
            Probability that a child gets another precision.
        crossover_prob:
            Probability that a child is distilled from the base model. At least one of the three happens.
        mutations:
            Callables `(genotype, space, rng) -> genotype | None`, each equally likely; see
            :mod:`nasopt.samplers.mutations`.
        max_layers:
            The most layers that one of nasopt's own mutations removes (K1).
        max_heads:
            The most heads that one of nasopt's own mutations removes (K2).
        max_units:
            The most heads and steps of FFN neurons that a guided mutation removes or restores.
        inherits:
            Whether a child starts from its parent's weights. If not, equal genotypes are the same work.
        selection:
            `"pareto"`: non-dominated sort and crowding distance. `"fitness"`: F; it needs the directions maximize (of
            quality), then minimize for one or more latencies and for memory.
        exponents:
            `(a, b, c)` of F.
        seed:
            Seed of the study. What a trial draws depends on it and on the trial's number only.

    Example:
        >>> import optuna
        >>> from nasopt.samplers import GeneticSampler, parent_of
        >>> def objective(trial):
        ...     kept = sum(trial.suggest_int(f"layer_{layer}", 0, 1) for layer in range(6))
        ...     trial.suggest_categorical("training", ["none", "finetune", "distill"])
        ...     return kept / 6, 1.0 + kept, 10.0 + kept
        >>> study = optuna.create_study(
        ...     directions=["maximize", "minimize", "minimize"], sampler=GeneticSampler(population_size=4, seed=0)
        ... )
        >>> study.optimize(objective, n_trials=8)
        >>> study.trials[0].values  # everything kept
        [1.0, 7.0, 16.0]
        >>> parent_of(study.trials[1])
        0
    """

    def __init__(
        self,
        *,
        population_size: int = 100,
        mutation_prob: float = 0.9,
        quantization_prob: float = 0.3,
        crossover_prob: float = 0.5,
        mutations: Sequence[Mutation] = (remove_last,),
        max_layers: int = 1,
        max_heads: int = 2,
        max_units: int = 8,
        inherits: bool = True,
        selection: Literal["pareto", "fitness"] = "pareto",
        exponents: Sequence[float] = (5.0, 1.0, 1.0),
        seed: int | None = None,
    ) -> None:
        probabilities = {"mutation": mutation_prob, "quantization": quantization_prob, "crossover": crossover_prob}
        for name, value in probabilities.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}_prob` must be within the range [0.0, 1.0], but got {value}.")
        if not any(probabilities.values()):
            raise ValueError("`mutation_prob`, `quantization_prob` and `crossover_prob` must not all be 0.")
        if not mutations:
            raise ValueError("`mutations` must name at least one mutation.")
        limits = Limits(max_layers, max_heads, max_units)
        for name, most in asdict(limits).items():
            if most < 1:
                raise ValueError(f"`max_{name}` must be at least 1, but got {most}.")
        if selection not in ("pareto", "fitness"):
            raise ValueError(f'`selection` must be "pareto" or "fitness", but got {selection!r}.')
        if len(exponents) != 3:
            raise ValueError(f"`exponents` must be three numbers (a, b, c), but got {exponents!r}.")
        limited = (item.limited(limits) if isinstance(item, OwnMutation) else item for item in mutations)
        vary = GeneticVariation(tuple(limited), mutation_prob, quantization_prob, crossover_prob, inherits)
        operators = Operators(
            initial=full_first,
            preference=pareto_preference if selection == "pareto" else partial(fitness_preference, tuple(exponents)),
            select=tournament,
            vary=vary,
            inherits=inherits,
        )
        super().__init__(operators, population_size=population_size, seed=seed)
        self._selection = selection
        self._vary = vary

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if self._selection == "fitness":
            _check_directions(study.directions)
        super().before_trial(study, trial)

    def _children(
        self, study: Study, history: History, own: Space, number: int
    ) -> Iterator[tuple[int | None, Genotype]]:
        """What the study starts with, as far as it is not known; then what evolution makes."""
        for parent, genotype in _beginning(study, own, self._vary.inherits):
            if not history.is_known(history.identity(fit(canonical(genotype), own), parent), number):
                yield parent, genotype
        yield from super()._children(study, history, own, number)

    def _variation(self, study: Study) -> GeneticVariation:
        return self._vary.guided(guide_of(study))


def _beginning(study: Study, own: Space, inherits: bool) -> Iterator[tuple[int | None, Genotype]]:
    """The ladder's genotypes and their healed children, each with its parent's number where it inherits."""
    ladder = queries.study_detail(study, LADDER)
    base = queries.base_of(study) if ladder and own else None
    if base is None:
        return
    root = base.number if inherits else None
    rungs = [fit(canonical(genotype), own) for genotype in ladder]
    yield from ((root, rung) for rung in rungs)
    for trial in queries.complete_trials(study):
        if parent_of(trial) == root and fit(trial.params, own) in rungs:
            yield trial.number if inherits else None, {**fit(trial.params, own), "training": "distill"}


def _check_directions(directions: Sequence[StudyDirection]) -> None:
    expected = [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * (len(directions) - 1)
    if len(directions) < 3 or list(directions) != expected:
        given = ", ".join(direction.name.lower() for direction in directions)
        raise ValueError(
            '`selection="fitness"` needs the directions maximize (quality), minimize (one or more latencies), minimize '
            f"(memory), but the study has {given}."
        )
