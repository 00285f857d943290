import numpy as np
import pytest
from evolved_studies import FULL, SPACE, make_space
from optuna.distributions import IntDistribution

from nasopt.samplers.genotype import fit, kept_layers
from nasopt.samplers.mutations import (
    MUTATIONS,
    Limits,
    quantize,
    remove_any_heads,
    remove_any_layer,
    remove_ffn,
    remove_last,
    restore,
)


def changed(genotype, parent=FULL):
    return {name: value for name, value in genotype.items() if value != parent[name]}


def outcomes(mutation, genotype=FULL, space=SPACE):
    return [changed(child, genotype) for child in mutation.outcomes(genotype, space)]


def test_remove_last_takes_the_last_layer_or_heads_of_it():
    layer = {"layer_2": 0, "heads_2": 0, "ffn_2": 0}
    assert outcomes(remove_last) == [layer, {"heads_2": 3}, {"heads_2": 2}]
    assert outcomes(remove_last.limited(Limits(layers=2, heads=1))) == [
        layer,
        layer | {"layer_1": 0, "heads_1": 0, "ffn_1": 0},
        {"heads_2": 3},
    ]


def test_remove_last_means_the_last_remaining_layer():
    thinned = FULL | {"layer_2": 0, "heads_2": 0, "ffn_2": 0, "heads_1": 1}
    assert outcomes(remove_last, thinned) == [{"layer_1": 0, "heads_1": 0, "ffn_1": 0}, {"heads_1": 0}]


def test_both_published_kinds_are_equally_likely():
    rng = np.random.RandomState(0)
    layers = sum("layer_2" in changed(remove_last(FULL, SPACE, rng)) for _ in range(2000))
    assert 900 < layers < 1100


def test_other_removals():
    assert [sorted(child) for child in outcomes(remove_any_layer)] == [
        [f"ffn_{layer}", f"heads_{layer}", f"layer_{layer}"] for layer in range(3)
    ]
    assert outcomes(remove_any_heads) == [{f"heads_{layer}": left} for layer in range(3) for left in (3, 2)]
    assert outcomes(remove_ffn) == [{f"ffn_{layer}": left} for layer in range(3) for left in (192, 128, 0)]


def test_restore_brings_back_what_is_gone():
    thinned = FULL | {"layer_0": 0, "heads_0": 0, "ffn_0": 0, "heads_1": 1, "ffn_1": 64}
    assert outcomes(restore, thinned) == [{"layer_0": 1, "heads_0": 4, "ffn_0": 256}, {"heads_1": 4}, {"ffn_1": 256}]
    assert restore(FULL, SPACE, np.random.RandomState(0)) is None


def test_quantize_takes_another_precision():
    assert outcomes(quantize) == [{"precision": "bf16"}, {"precision": "int8"}]
    assert quantize({"heads_0": 1}, {"heads_0": IntDistribution(0, 4)}, np.random.RandomState(0)) is None


def test_bounds_and_remainders_are_respected():
    space = make_space(layers=2, ffn=272, lowest_ffn=16)  # 272 = 4 x 64 + 16
    full = fit({}, space)
    assert outcomes(remove_ffn, full, space)[:3] == [{"ffn_0": 208}, {"ffn_0": 144}, {"ffn_0": 16}]
    assert outcomes(remove_any_layer, full, space)[0] == {"layer_0": 0, "heads_0": 0, "ffn_0": 16}


def test_layers_that_must_stay_stay():
    space = {**SPACE, "layer_2": IntDistribution(1, 1)}
    assert all("layer_2" not in child for child in outcomes(remove_any_layer, FULL, space))
    assert outcomes(remove_last, FULL, space) == [{"heads_2": 3}, {"heads_2": 2}]


@pytest.mark.parametrize("name", MUTATIONS)
def test_long_chains_stay_within_bounds_and_keep_a_layer(name):
    rng = np.random.RandomState(0)
    genotype = dict(FULL)
    for _ in range(200):
        before = dict(genotype)
        child = MUTATIONS[name](genotype, SPACE, rng)
        assert genotype == before
        if child is None:
            break
        assert child != genotype
        assert kept_layers(child)
        assert child.keys() == SPACE.keys()
        assert all(item._contains(item.to_internal_repr(child[key])) for key, item in SPACE.items())
        genotype = child
    if name != "quantize":
        assert child is None
