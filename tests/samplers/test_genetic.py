import pickle

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from nasopt.samplers import GeneticSampler
from nasopt.samplers.evolution import Parent
from nasopt.samplers.genetic import GeneticVariation, fitness, fitness_preference, log_fitness
from nasopt.samplers.genotype import fit
from nasopt.samplers.history import is_exhausted
from nasopt.samplers.mutations import remove_any_layer, remove_last

SPACE = {
    "layer_0": IntDistribution(0, 1),
    "heads_0": IntDistribution(0, 4),
    "layer_1": IntDistribution(0, 1),
    "heads_1": IntDistribution(0, 4),
    "precision": CategoricalDistribution(["fp32", "int8"]),
    "training": CategoricalDistribution(["none", "finetune", "distill"]),
}
PARENT = Parent(3, fit({"training": "distill"}, SPACE))


def test_fitness_by_hand():
    # F of the first: 1 x 5/10 x 50/100; of the second: (0.4 / 0.8)^5.
    np.testing.assert_allclose(fitness([[0.8, 10, 100], [0.4, 5, 50]]), [0.25, 0.03125])
    np.testing.assert_allclose(fitness([[0.8, 10, 100], [0.4, 5, 50]], (1, 2, 0)), [0.25, 0.5])
    assert fitness([[0.8, 10, 100]]) == pytest.approx(1.0)
    assert len(fitness(np.zeros((0, 3)))) == 0


def test_fitness_clips_quality_and_multiplies_latencies():
    # Q is 1e-6 for the second; T is 2 x 10 and 1 x 5.
    np.testing.assert_allclose(fitness([[0.5, 2, 10, 7], [-0.3, 1, 5, 7]], (1, 1, 1)), [5 / 20, 1e-6 / 0.5])


def test_log_fitness_ranks_as_fitness_does():
    values = np.random.default_rng(0).uniform(0.1, 1, (30, 3))
    np.testing.assert_array_equal(np.argsort(log_fitness(values)), np.argsort(fitness(values)))
    with pytest.raises(ValueError, match="quality, latency, memory"):
        log_fitness(values[:, :2])


def test_fitness_preference_puts_feasible_points_first():
    points = np.array([[-0.8, 10, 100], [-0.9, 1, 1], [-0.7, 1, 1]])
    keys = fitness_preference((5, 1, 1), (), points, np.array([0.0, 2.0, 0.0]))
    assert list(np.lexsort(keys.T[::-1])) == [2, 0, 1]


def vary(mutation, quantization, crossover, **changes):
    space = {**SPACE, **changes}
    variation = GeneticVariation((remove_last,), mutation, quantization, crossover)
    return variation(PARENT, space, np.random.RandomState(0)), list(variation.neighbours(PARENT, space, None))


def test_training_says_which_operators_made_the_child():
    crossed, all_crossed = vary(0, 0, 1)
    assert crossed == PARENT.genotype | {"training": "distill"}
    assert all_crossed == [crossed]
    pruned, _ = vary(1, 0, 0)
    assert pruned["training"] == "finetune"
    assert pruned["precision"] == "fp32"
    both, _ = vary(1, 0, 1)
    assert both["training"] == "distill"
    assert both["heads_1"] < 4
    quantized, all_quantized = vary(0, 1, 0)
    assert quantized == PARENT.genotype | {"training": "none", "precision": "int8"}
    assert all_quantized == [quantized]


def test_neighbours_are_all_that_can_be_drawn():
    variation = GeneticVariation((remove_last, remove_any_layer), 0.5, 0.5, 0.5)
    rng = np.random.RandomState(0)
    drawn = {tuple(sorted(variation(PARENT, SPACE, rng).items())) for _ in range(3000)}
    listed = {tuple(sorted(child.items())) for child in variation.neighbours(PARENT, SPACE, rng)}
    # 2 layers to remove, 1 or 2 heads, or none of it; 2 precisions; crossover or not; less the parent's copy.
    assert len(listed) == 5 * 2 * 2 - 1
    assert drawn == listed


def test_a_training_that_is_not_on_offer_makes_no_child():
    child, neighbours = vary(0, 0, 1, training=CategoricalDistribution(["none", "finetune"]))
    assert child is None
    assert neighbours == []


def test_user_mutations_are_called():
    def halve(genotype, space, rng):
        return {**genotype, "heads_0": genotype["heads_0"] // 2}

    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=GeneticSampler(mutations=[halve], mutation_prob=1, quantization_prob=0, crossover_prob=0, seed=0),
    )
    for _ in range(2):
        trial = study.ask(SPACE)
        study.tell(trial, [1.0, 1.0])
    assert study.trials[1].params == fit({"heads_0": 2, "training": "finetune"}, SPACE)


@pytest.mark.parametrize(
    "directions", [["maximize", "minimize"], ["minimize"] * 3, ["maximize", "minimize", "maximize"]]
)
def test_fitness_needs_its_directions(directions):
    study = optuna.create_study(directions=directions, sampler=GeneticSampler(selection="fitness"))
    with pytest.raises(ValueError, match='selection="fitness"` needs the directions maximize'):
        study.ask()


def test_fitness_keeps_the_fittest():
    sampler = GeneticSampler(population_size=2, selection="fitness", seed=0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
    values = [(0.9, 10, 10), (0.8, 10, 10), (0.1, 1, 1), (0.9, 9, 10), (0.85, 10, 10)]
    for item in values:
        study.tell(study.ask(SPACE), item)
    # a ln Q - b ln T - c ln M: -5.13, -5.72, -11.51, -5.03, -5.42
    assert [trial.number for trial in sampler.elite(study)] == [0, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 1}, "population_size"),
        ({"mutation_prob": 1.5}, "`mutation_prob` must be within"),
        ({"crossover_prob": -1}, "`crossover_prob` must be within"),
        ({"mutation_prob": 0, "quantization_prob": 0, "crossover_prob": 0}, "must not all be 0"),
        ({"mutations": []}, "at least one mutation"),
        ({"max_heads": 0}, "max_heads"),
        ({"selection": "random"}, "selection"),
        ({"exponents": (1, 2)}, "exponents"),
    ],
)
def test_bad_arguments_name_themselves(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeneticSampler(**arguments)


def test_a_pickled_sampler_goes_on():
    sampler = GeneticSampler(selection="fitness", seed=3)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)
    study.tell(study.ask(SPACE), [1, 1, 1])
    study.sampler = pickle.loads(pickle.dumps(sampler))
    assert study.ask(SPACE).params != study.trials[0].params


def test_the_same_weights_are_not_quantised_or_trained_the_same_way_twice():
    """Trials that change the precision only have their parent's weights, so their children are its children."""
    space = {name: SPACE[name] for name in ("layer_0", "heads_0", "precision", "training")}
    sampler = GeneticSampler(mutation_prob=0, quantization_prob=0.5, crossover_prob=0.5, population_size=50, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    origins = {}
    done = set()
    for number in range(20):
        trial = study.ask(space)
        study.tell(trial, [1.0 + number, 1.0])
        frozen = study.trials[number]
        parent = frozen.system_attrs.get("nasopt:proposal", {}).get("parent")
        weights = origins.get(parent)
        work = (frozen.params["precision"], frozen.params["training"], weights)
        assert work not in done
        done.add(work)
        origins[number] = weights if frozen.params["training"] == "none" else number


def test_a_search_that_only_quantises_comes_to_an_end():
    space = {name: SPACE[name] for name in ("layer_0", "heads_0", "precision", "training")}
    sampler = GeneticSampler(mutation_prob=0, quantization_prob=1, crossover_prob=0, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(3):
        study.tell(study.ask(space), [1.0, 1.0])
    exhausted = [is_exhausted(trial) for trial in study.trials]
    assert exhausted == [False, False, True]  # the base model, the base model in int8, and nothing else
