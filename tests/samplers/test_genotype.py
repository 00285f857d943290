import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nasopt.samplers.genotype import fit, full_value, identity, is_own, kept_layers


@pytest.mark.parametrize(
    ("name", "distribution", "expected"),
    [
        ("layer_0", IntDistribution(0, 1), True),
        ("layer_0", IntDistribution(0, 2), False),
        ("layer_0", CategoricalDistribution([0, 1]), False),
        ("layer_00", IntDistribution(0, 1), False),
        ("heads_11", IntDistribution(0, 12), True),
        ("heads_1", FloatDistribution(0, 12), False),
        ("heads_1", IntDistribution(1, 12, log=True), False),
        ("ffn_3", IntDistribution(0, 1536, step=64), True),
        ("ffn_3", IntDistribution(-64, 1536, step=64), False),
        ("precision", CategoricalDistribution(["fp32", "int8"]), True),
        ("precision", CategoricalDistribution(["fp32", "ternary"]), False),
        ("training", CategoricalDistribution(["none", "distill"]), True),
        ("learning_rate", FloatDistribution(0, 1), False),
    ],
)
def test_own_parameters_have_the_name_and_the_kind(name, distribution, expected):
    assert is_own(name, distribution) is expected


def test_full_values():
    assert full_value(IntDistribution(0, 128, step=64)) == 128
    assert full_value(CategoricalDistribution(["int8", "fp32"])) == "fp32"
    assert full_value(CategoricalDistribution(["int8", "int4"])) == "int8"
    assert full_value(CategoricalDistribution(["distill", "none"])) == "none"


def test_fit_fills_clips_and_rounds_down():
    space = {
        "heads_0": IntDistribution(1, 4),
        "ffn_0": IntDistribution(16, 272, step=64),
        "layer_0": IntDistribution(0, 1),
        "precision": CategoricalDistribution(["fp32", "int8"]),
    }
    genotype = fit({"heads_0": 9, "ffn_0": 100, "precision": "int4", "lr": 0.1}, space)
    assert genotype == {"heads_0": 4, "ffn_0": 80, "layer_0": 1, "precision": "fp32"}
    assert fit({"heads_0": 0, "ffn_0": 0}, space)["ffn_0"] == 16


def test_identity_is_canonical_genotype_training_and_parent():
    removed = {"layer_0": 0, "heads_0": 3, "ffn_0": 64, "training": "none"}
    assert identity(removed, 4) == identity({**removed, "heads_0": 0, "ffn_0": 0}, 4)
    assert identity(removed, 4) != identity(removed, None)
    assert identity(removed, 4) != identity({**removed, "training": "distill"}, 4)
    assert identity(removed, 4) != identity({**removed, "layer_0": 1}, 4)
    assert hash(identity({"x": [1, 2]}, None)) == hash(identity({"x": [1, 2]}, None))


def test_layers_without_a_switch_are_kept():
    assert kept_layers({"heads_0": 2, "layer_1": 0, "ffn_1": 0, "ffn_2": 64, "precision": "fp32"}) == [0, 2]
