"""Optuna's samplers by name: they see the search's trials, and draw nothing twice."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from nasopt.samplers.named import SamplerName, named_sampler

NAMES: tuple[SamplerName, ...] = ("nsga2", "tpe", "gp", "random")


class TestNSGAII(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: named_sampler("nsga2", 0, population_size=4)


class TestTPE(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: named_sampler("tpe", 0, population_size=4)


def study_of(name: SamplerName, storage: optuna.storages.InMemoryStorage, seed: int = 1) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=named_sampler(name, seed, population_size=4),
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """The first trial and controls have no parameters, as a study's base model has none."""
    if trial.number == 0 or "control" in trial.user_attrs:
        return 1.0, 1.0
    x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 0, 100)
    return x, n / 100 + x


@pytest.mark.parametrize("name", NAMES)
def test_trials_without_parameters_are_not_seen(name: SamplerName) -> None:
    study = study_of(name, optuna.storages.InMemoryStorage())
    study.optimize(objective, n_trials=5)
    study.enqueue_trial({}, user_attrs={"control": "random"})
    study.optimize(objective, n_trials=7)
    assert [bool(trial.params) for trial in study.trials] == [False] + [True] * 4 + [False] + [True] * 6
    if name == "nsga2":
        # With the base model and a control among them Optuna finds no parameter that all trials have.
        generations = [trial.system_attrs.get("NSGAIISampler:generation") for trial in study.trials if trial.params]
        assert generations == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(name: SamplerName) -> None:
    whole = study_of(name, optuna.storages.InMemoryStorage())
    whole.optimize(objective, n_trials=12)
    storage = optuna.storages.InMemoryStorage()
    for count in (3, 4, 5):
        study_of(name, storage).optimize(objective, n_trials=count)
    resumed = study_of(name, storage)
    assert [trial.params for trial in resumed.trials] == [trial.params for trial in whole.trials]
    drawn = [tuple(trial.params.values()) for trial in whole.trials if trial.params]
    assert len(set(drawn)) > len(drawn) // 2
    other = study_of(name, optuna.storages.InMemoryStorage(), seed=2)
    other.optimize(objective, n_trials=4)
    assert other.trials[1].params != whole.trials[1].params
