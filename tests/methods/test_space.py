"""The parameters that search spaces ask a trial for."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.methods.registry import make_method
from nasopt.methods.space import SearchSpace

SHAPE = EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=64)
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "width": IntDistribution(64, 192, step=64),
    "rate": FloatDistribution(1e-4, 1e-2, log=True),
    "share": FloatDistribution(0.0, 1.0, step=0.25),
    "precision": CategoricalDistribution(("fp32", "int8")),
    "depth": IntDistribution(1, 64, log=True),
}


def test_a_trial_is_asked_for_each_parameter_in_order_and_as_it_is_distributed() -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    params = SearchSpace(DISTRIBUTIONS).suggest(trial)
    assert list(params) == list(DISTRIBUTIONS)
    assert params == trial.params
    assert trial.distributions == DISTRIBUTIONS


def test_what_was_enqueued_is_taken() -> None:
    wanted = {"width": 128, "rate": 5e-3, "share": 0.75, "precision": "int8", "depth": 7}
    study = optuna.create_study()
    study.enqueue_trial(wanted)
    assert SearchSpace(DISTRIBUTIONS).suggest(study.ask()) == wanted


def test_a_space_without_a_base_has_none_of_its_values() -> None:
    assert SearchSpace(DISTRIBUTIONS).base == {}


@pytest.mark.parametrize("name", ["genetic", "alphanas", "bayesian", "taylor", "adabert"])
def test_the_base_models_values_lie_in_each_methods_space_or_outside_altogether(name: str) -> None:
    space = method_space(name)
    assert not space.base or space.base.keys() == space.distributions.keys()
    for parameter, value in space.base.items():
        distribution = space.distributions[parameter]
        assert distribution._contains(distribution.to_internal_repr(value)), parameter


def test_the_genetic_base_is_the_full_architecture() -> None:
    assert method_space("genetic").base == {**Architecture.full(SHAPE).to_params(), "training": "none"}


def method_space(name: str) -> SearchSpace:
    document = {"name": "tiny", "method": name, "task": {"model": "m", "dataset": {"path": "d", "text": ["text"]}}}
    return make_method(StudyConfig.model_validate(document)).space(SHAPE)
