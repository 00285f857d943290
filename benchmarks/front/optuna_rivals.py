"""Optuna's own samplers on the generic space, one fine-tuning a trial."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from benchmarks.front.race import Race, ranges

POPULATION = 10
"""Of NSGA-II. Optuna's default, 50, is more than the budget has trials, so that nothing would ever be selected."""


def nsga2(race: Race) -> None:
    """NSGA-II (https://optuna.readthedocs.io/en/stable/reference/samplers/generated/optuna.samplers.NSGAIISampler.html)."""
    _search(race, NSGAIISampler(population_size=POPULATION, seed=race.ground.seed))


def tpe(race: Race) -> None:
    """Multi-objective TPE, multivariate as its documentation advises for parameters that depend on each other.

    Its 10 start-up trials are the default; see
    https://optuna.readthedocs.io/en/stable/reference/samplers/generated/optuna.samplers.TPESampler.html.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(multivariate=True, seed=race.ground.seed)
    _search(race, sampler)


def _search(race: Race, sampler: BaseSampler) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    space = ranges(race.ground)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        point = race.fine_tuned({name: trial.suggest_int(name, *bounds) for name, bounds in space.items()})
        return point.quality, point.ratio

    while race.left():
        study.optimize(objective, n_trials=1)
