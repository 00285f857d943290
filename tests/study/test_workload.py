"""The shape of a trial, from its genotype."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from nasopt.architecture.base import EncoderShape
from nasopt.measurement.predicted.transformer_cost import LayerShape
from nasopt.study.workload import from_params, precision_of

BASE = EncoderShape(num_layers=3, num_heads=4, ffn_size=256, hidden_size=64)


def trial(**params: Any) -> FrozenTrial:
    distributions = {name: CategoricalDistribution([value]) for name, value in params.items()}
    return optuna.trial.create_trial(params=params, distributions=distributions, value=0.0)


def test_removed_layers_are_not_counted_and_others_differ() -> None:
    full = {"heads_0": 4, "ffn_0": 256, "heads_1": 0, "ffn_1": 0, "heads_2": 1, "ffn_2": 64}
    found = from_params(trial(layer_0=1, layer_1=0, layer_2=1, **full), BASE)
    assert found == (LayerShape(4, 16, 256), LayerShape(1, 16, 64))


def test_a_layer_mask_keeps_whole_layers() -> None:
    assert from_params(trial(layer_0=0, layer_1=1, layer_2=0), BASE) == (LayerShape(4, 16, 256),)


@pytest.mark.parametrize("params", [{}, {"cell_0": 3}])
def test_other_genotypes_have_no_layers(params: dict[str, Any]) -> None:
    assert from_params(trial(**params), BASE) is None


def test_a_failed_trials_precision_is_its_genotypes() -> None:
    failed = trial(precision="int8")
    failed.state = optuna.trial.TrialState.FAIL
    assert precision_of(failed) == "int8"
