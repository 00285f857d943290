"""AdaBERTSampler: draws the cells of a student from the distribution that a trained supernet has learnt.

Reference: METHODS.md, section 3 (AdaBERT: differentiable search of a small convolutional student).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasopt.architecture.cells import OPERATIONS
from nasopt.records.queries import study_detail
from nasopt.samplers.genotype import Genotype, Space, fit, is_own
from nasopt.samplers.history import EliteFold, FloatArray, History, is_fixed
from nasopt.samplers.proposing import FOREIGN_DRAWS, ProposingSampler

SUPERNET = "nasopt:supernet"
"""Study user attribute: the record of the supernet's training; `logits` are the architecture weights a, (cells, 7)."""

_DRAWS = 64
"""The number of random architectures drawn before the systematic look for one that is not known."""


def gumbel_max(logits: FloatArray, temperature: float, rng: np.random.RandomState) -> int:
    """A draw from `softmax(a / T)`: `argmax(a / T + g)` with standard Gumbel noise g (Gumbel 1954).

    Args:
        logits: a, shape `(n,)`.
        temperature: T > 0; 1 is the learnt distribution, more is closer to uniform.
        rng: source of g.
    """
    return int(np.argmax(logits / temperature + rng.gumbel(size=len(logits))))


def by_probability(costs: Sequence[FloatArray]) -> Iterator[tuple[int, ...]]:
    """Yields every choice of one entry from each row, cheapest sum first.

    Args:
        costs: for each cell the costs of its operations, shape `(n,)` each; with minus the logits, the most probable
            choice comes first.
    """
    orders = [np.argsort(row, kind="stable") for row in costs]

    def cost(ranks: tuple[int, ...]) -> float:
        return math.fsum(row[order[rank]] for row, order, rank in zip(costs, orders, ranks, strict=True))

    first = (0,) * len(costs)
    heap = [(cost(first), first)]
    while heap:
        _, ranks = heapq.heappop(heap)
        yield tuple(int(order[rank]) for order, rank in zip(orders, ranks, strict=True))
        # Each choice is reached once: from the one whose last rank above 0 is smaller by one.
        last = max((index for index, rank in enumerate(ranks) if rank), default=0)
        for index in range(last, len(ranks)):
            if ranks[index] + 1 < len(costs[index]):
                following = (*ranks[:index], ranks[index] + 1, *ranks[index + 1 :])
                heapq.heappush(heap, (cost(following), following))


class AdaBERTSampler(ProposingSampler, RandomSampler):
    """Samples architectures from the distribution that a supernet has learnt, without replacement.

    Parameters are `cell_0`, `cell_1`... with the seven operations. The architecture weights `a` are read from the
    study's user attribute `nasopt:supernet`; before it is there, every operation is equally likely. The first proposal
    is the most probable architecture (argmax a, without noise) unless somebody has tried it already; the others are
    drawn cell by cell by Gumbel-max, `argmax(a / T + g)`. Architectures that were tried, are under way or wait are
    never proposed. When all draws are known, the most probable one that is left is taken; when none is left, the
    trial gets the system attribute `nasopt:exhausted`: see :func:`nasopt.samplers.history.is_exhausted`.

    What a trial draws depends on `seed` and the trial's number only, the seed is recorded in the trial, and state comes
    from the database alone. Other parameters than cells are drawn at random.

    Args:
        temperature:
            T above; 1 samples the learnt distribution, a small T the most probable architectures.
        seed:
            Seed of the study, below 2^32. :obj:`None` takes fresh entropy for every trial.

    Example:
        >>> import optuna
        >>> from nasopt.samplers import AdaBERTSampler
        >>> operations = ["conv1", "conv3", "conv5", "dilconv3", "maxpool", "avgpool", "skip"]
        >>> def objective(trial):
        ...     cells = [trial.suggest_categorical(f"cell_{cell}", operations) for cell in range(2)]
        ...     return cells.count("conv3"), 2.0 - cells.count("skip")
        >>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=AdaBERTSampler(seed=0))
        >>> study.optimize(objective, n_trials=10)
        >>> len({tuple(trial.params.values()) for trial in study.trials})  # no architecture twice
        10
    """

    def __init__(self, *, temperature: float = 1.0, seed: int | None = None) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"`temperature` must be a number above 0, but got {temperature}.")
        super().__init__(seed=seed)
        self._start(seed)
        self._temperature = temperature

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        cell = _cells({param_name: param_distribution})
        if not cell:
            return super().sample_independent(study, trial, param_name, param_distribution)
        if is_fixed(trial):
            return fit({}, {param_name: param_distribution})[param_name]
        # The space was not known before this trial, so it is the first one with cells, or one that began beside it.
        with self._lock:
            is_first = self._history_of(study).position(trial.number) == 0
        choices = cell[param_name].choices
        (row,) = _logits(study, cell) or [np.zeros(len(choices))]
        index = int(np.argmax(row)) if is_first and row.any() else gumbel_max(row, self._temperature, self._rng.rng)
        return choices[index]

    def _new_history(self, signs: FloatArray) -> History:
        return _CellHistory(EliteFold(1, lambda trials, points, violations: points, signs))

    def _space(self, study: Study, history: History) -> Space:
        space = history.space
        if _cells(space):
            return space
        cells = (study_detail(study, SUPERNET) or {}).get("logits", [])
        return {**space, **{f"cell_{index}": CategoricalDistribution(OPERATIONS) for index in range(len(cells))}}

    def _children(
        self, study: Study, history: History, own: Space, number: int
    ) -> Iterator[tuple[int | None, Genotype]]:
        cells = _cells(own)
        others = fit({}, {name: item for name, item in own.items() if name not in cells})
        if not cells:
            yield from repeat((None, others), FOREIGN_DRAWS)
            return
        learnt = _logits(study, cells)
        rows = learnt or [np.zeros(len(item.choices)) for item in cells.values()]

        def genotype(indices: Sequence[int]) -> tuple[None, Genotype]:
            chosen = zip(cells.items(), indices, strict=True)
            return None, {**others, **{name: item.choices[index] for (name, item), index in chosen}}

        if learnt:
            yield genotype([int(np.argmax(row)) for row in rows])
        for _ in range(_DRAWS):
            yield genotype([gumbel_max(row, self._temperature, self._rng.rng) for row in rows])
        for indices in by_probability([-row for row in rows]):
            yield genotype(indices)

    def _draw_foreign(self, study: Study, trial: FrozenTrial, history: History, space: Space) -> dict[str, Any]:
        return {
            name: RandomSampler.sample_independent(self, study, trial, name, distribution)
            for name, distribution in space.items()
            if not is_own(name, distribution)
        }


class _CellHistory(History):
    """A history in which equal cells are the same work whatever parent a trial names, because all students inherit from
    the one supernet."""

    def identity(self, params: Mapping[str, Any], parent: int | None) -> Hashable:
        return super().identity(params, None)


def _cells(space: Space) -> dict[str, CategoricalDistribution]:
    """The parameters that are cells."""
    return {
        name: distribution
        for name, distribution in space.items()
        if name.startswith("cell_") and isinstance(distribution, CategoricalDistribution) and is_own(name, distribution)
    }


def _logits(study: Study, cells: Mapping[str, CategoricalDistribution]) -> list[FloatArray]:
    """The learnt weights of each cell's choices; empty before there are any."""
    record = study_detail(study, SUPERNET)
    if record is None:
        return []
    learnt = record["logits"]
    rows = []
    for name, distribution in cells.items():
        index = int(name.removeprefix("cell_"))
        weights = dict(zip(OPERATIONS, learnt[index], strict=True)) if index < len(learnt) else {}
        rows.append(np.array([weights.get(choice, 0.0) for choice in distribution.choices]))
    return rows
