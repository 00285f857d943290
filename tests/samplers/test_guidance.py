"""Mutations that go by expected loss for time: what they take and bring back, and how good a front they reach."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nasopt.numerics.budget import BlockCosts, base_time, choose_counts, share_ladder, smallest_share
from nasopt.numerics.pareto import hypervolume
from nasopt.records.names import GUIDANCE, LADDER
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.samplers.genetic import GeneticSampler
from nasopt.samplers.genotype import fit
from nasopt.samplers.guidance import BlockGuide, guide_of
from nasopt.samplers.mutations import Limits, remove_least, restore_most

SPACE: dict[str, BaseDistribution] = {
    "layer_0": IntDistribution(0, 1),
    "heads_0": IntDistribution(0, 3),
    "ffn_0": IntDistribution(0, 128, step=64),
    "layer_1": IntDistribution(0, 1),
    "heads_1": IntDistribution(0, 3),
    "ffn_1": IntDistribution(0, 128, step=64),
}
FULL = fit({}, SPACE)


def guide(**blocks: tuple[list[float], list[float], list[float]]) -> dict[str, BlockGuide]:
    return {name: BlockGuide(np.array(item[0]), BlockCosts(*item[1:])) for name, item in blocks.items()}


HEADS, WIDTHS = [0.0, 1, 2, 3], [0.0, 64, 128]
# Losses for each time, from the last unit to the first: heads_0 1, 2, 3; ffn_0 4, 8; heads_1 2, 4, 4; ffn_1 1, 20.
GUIDE = guide(
    heads_0=(HEADS, [6.0, 3, 1, 0], [0.0, 1, 2, 3]),
    ffn_0=(WIDTHS, [24.0, 8, 0], [0.0, 2, 4]),
    heads_1=(HEADS, [10.0, 6, 2, 0], [0.0, 1, 2, 3]),
    ffn_1=(WIDTHS, [42.0, 2, 0], [0.0, 2, 4]),
)


def draws(mutation: Any, genotype: dict[str, Any], units: int, count: int = 400) -> list[dict[str, Any]]:
    """What changes in each of some draws."""
    rng = np.random.RandomState(0)
    mutation = mutation.guided(GUIDE).limited(Limits(units=units))
    children = [mutation(genotype, SPACE, rng) for _ in range(count)]
    return [{name: child[name] for name in child if child[name] != genotype[name]} for child in children]


def test_the_least_loss_for_its_time_goes_most_often() -> None:
    drawn = Counter(next(iter(changed)) for changed in draws(remove_least, FULL, units=1))
    # Equals stand in the order of the layers: heads_0 (1), ffn_1 (1), heads_1 (2), ffn_0 (4).
    assert [name for name, _ in drawn.most_common()] == ["heads_0", "ffn_1", "heads_1", "ffn_0"]
    shares = np.array([drawn[name] for name in ("heads_0", "ffn_1", "heads_1", "ffn_0")]) / 400
    np.testing.assert_allclose(shares, np.array([8, 4, 2, 1]) / 15, atol=0.08)


def test_the_most_loss_for_its_time_comes_back_most_often() -> None:
    thinned = {**FULL, "heads_0": 2, "ffn_0": 0, "heads_1": 1, "ffn_1": 0}
    drawn = Counter(next(iter(changed)) for changed in draws(restore_most, thinned, units=1))
    assert [name for name, _ in drawn.most_common()] == ["ffn_1", "ffn_0", "heads_1", "heads_0"]


def test_several_units_go_one_after_another() -> None:
    drawn = draws(remove_least, FULL, units=7)
    steps = {name: 64 if name.startswith("ffn") else 1 for name in FULL}
    assert {sum((FULL[name] - left) // steps[name] for name, left in item.items()) for item in drawn} == {1, 2, 4}
    assert any(len(item) > 1 for item in draws(remove_least, FULL, units=4))


def test_losses_that_are_not_convex_are_seen_together() -> None:
    """The first unit brings little and the second much: together they are the best for their time."""
    known = guide(heads_0=(HEADS, [10.0, 9, 0, 0], HEADS), heads_1=(HEADS, [9.0, 6, 3, 0], HEADS))
    thinned = {**FULL, "heads_0": 0, "heads_1": 0}
    mutation = restore_most.guided(known).limited(Limits(units=2))
    rng = np.random.RandomState(1)
    drawn = [mutation(thinned, SPACE, rng) for _ in range(200)]
    # Of two units they are the first choice, of one alone the second: half of the draws are of two.
    assert 45 < sum(child["heads_0"] == 2 for child in drawn if child) < 90
    assert sum(child["heads_0"] == 1 for child in drawn if child) < 60


def test_a_time_that_does_not_fall_is_no_gain_and_one_that_does_not_rise_no_cost() -> None:
    known = guide(heads_0=(HEADS, [3.0, 2, 1, 0], [0.0, 1, 2, 2]), heads_1=(HEADS, [90.0, 60, 30, 0], HEADS))
    rng = np.random.RandomState(0)
    removed = [remove_least.guided(known).limited(Limits(units=1))(FULL, SPACE, rng) for _ in range(90)]
    assert sum(child["heads_1"] == 2 for child in removed if child) > 45
    thinned = {**FULL, "heads_0": 2, "heads_1": 2}
    restored = [restore_most.guided(known).limited(Limits(units=1))(thinned, SPACE, rng) for _ in range(90)]
    assert sum(child["heads_0"] == 3 for child in restored if child) > 45


def test_a_removed_layer_loses_nothing_more_and_comes_back_with_its_units() -> None:
    gone = {**FULL, "layer_1": 0, "heads_1": 0, "ffn_1": 0}
    assert all(set(item) <= {"heads_0", "ffn_0"} for item in draws(remove_least, gone, units=4))
    assert draws(restore_most, gone, units=1, count=1)[0] == {"layer_1": 1, "ffn_1": 64}


def test_outcomes_are_of_one_block_and_can_be_drawn() -> None:
    mutation = remove_least.guided(GUIDE).limited(Limits(units=3))
    listed = [{n: v for n, v in child.items() if v != FULL[n]} for child in mutation.outcomes(FULL, SPACE)]
    assert len(listed) == 4 * 2
    drawn = draws(remove_least, FULL, units=3, count=3000)
    assert all(item in drawn for item in listed)


def test_without_a_guide_all_blocks_are_equally_likely() -> None:
    rng = np.random.RandomState(0)
    single = remove_least.limited(Limits(units=1))
    children = [single(FULL, SPACE, rng) for _ in range(800)]
    drawn = Counter(name for child in children if child for name in child if child[name] != FULL[name])
    assert len(drawn) == 4
    assert all(150 < count < 250 for count in drawn.values())


def test_a_guide_is_read_from_the_study_as_it_was_stored() -> None:
    study = optuna.create_study()
    assert guide_of(study) == {}
    StudyRecord(details={GUIDANCE: {name: item.to_json() for name, item in GUIDE.items()}}).write_to(study)
    found = guide_of(study)
    assert json.dumps(found["ffn_1"].to_json()) == json.dumps(GUIDE["ffn_1"].to_json())
    # Between known counts the costs lie on straight lines.
    np.testing.assert_allclose(found["ffn_1"].at([16, 96]).errors, [42 - 40 / 4, 1.0])


LAYERS, HEAD_COUNT, STEPS, FIXED = 4, 8, 16, 10.0


class Invented:
    """A separable model: the loss is the sum of the blocks', the time, too, and both are known exactly."""

    def __init__(self, seed: int) -> None:
        rng = np.random.RandomState(seed)
        self.space: dict[str, BaseDistribution] = {"training": CategoricalDistribution(["none", "finetune", "distill"])}
        self.guide: dict[str, BlockGuide] = {}
        for layer in range(LAYERS):
            self.space[f"layer_{layer}"] = IntDistribution(1, 1)
            for name, units, step in ((f"heads_{layer}", HEAD_COUNT, 1), (f"ffn_{layer}", STEPS, 64)):
                self.space[name] = IntDistribution(0, units * step, step=step)
                kept, weight, power = np.arange(units + 1), np.exp(rng.normal()), rng.uniform(1.2, 4)
                costs = BlockCosts(weight * (1 - kept / units) ** power, kept * rng.uniform(0.5, 2))
                self.guide[name] = BlockGuide(kept * float(step), costs)
        self.blocks = [item.costs for item in self.guide.values()]
        self.whole = base_time(self.blocks, FIXED)

    def best(self, share: float) -> dict[str, Any]:
        counts = choose_counts(self.blocks, FIXED, share)
        chosen = zip(self.guide.items(), counts, strict=True)
        return fit({name: item.counts[count] for (name, item), count in chosen}, self.space)

    def values(self, params: dict[str, Any]) -> tuple[float, float]:
        """The loss, as a share of the most there can be, and the time, as a share of the whole model's."""
        found = [item.at([params[name]]) for name, item in self.guide.items()]
        most = sum(block.errors[0] for block in self.blocks)
        time = FIXED + sum(item.times[0] for item in found)
        return float(sum(item.errors[0] for item in found) / most), float(time / self.whole)

    def optimum(self) -> float:
        """The hypervolume of the best sub-networks of many times."""
        shares = np.linspace(smallest_share(self.blocks, FIXED) + 1e-9, 1, 300)
        return hypervolume([self.values(self.best(share)) for share in shares], [1.0, 1.0])

    def reached(self, sampler: GeneticSampler, trials: int, is_guided: bool) -> float:
        """The hypervolume of a search from the ladder on."""
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        details: dict[str, Any] = {LADDER: [self.best(share) for share in share_ladder(1.0, 0.2, 7)[1:]]}
        if is_guided:
            details[GUIDANCE] = {name: item.to_json() for name, item in self.guide.items()}
        StudyRecord(details=details).write_to(study)
        for number in range(trials):
            trial = study.ask(self.space)
            if number == 0:
                TrialRecord(is_base=True).write_to(trial)
            study.tell(trial, self.values(trial.params))
        return hypervolume([trial.values for trial in study.trials], [1.0, 1.0])


@pytest.mark.parametrize("seed", range(4))
def test_guided_mutations_reach_a_better_front_than_uniform_ones(seed: int) -> None:
    problem = Invented(seed)
    found = {}
    for is_guided in (True, False):
        sampler = GeneticSampler(
            population_size=16,
            mutations=[remove_least, restore_most],
            quantization_prob=0,
            crossover_prob=0,
            inherits=False,
            seed=seed,
        )
        found[is_guided] = problem.reached(sampler, 40, is_guided)
    optimum = problem.optimum()
    assert found[False] < found[True] <= optimum * (1 + 1e-6)
    assert optimum - found[True] < (optimum - found[False]) * 0.7
