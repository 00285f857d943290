"""Optuna's own samplers, by name, for methods whose parameters need none of ours."""

from __future__ import annotations

from typing import Literal, TypeAlias

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasopt.samplers.proposing import trial_seed

SamplerName: TypeAlias = Literal["nsga2", "tpe", "gp", "random"]


class _Reseeding:
    """To be mixed into one of Optuna's samplers: a trial's draws depend on the seed and on its number only.

    Otherwise a study that is resumed would draw again what it drew at its beginning, and workers what the others draw.
    """

    nasopt_seed: int | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seed = trial_seed(self.nasopt_seed, trial.number) % 2**32
        for holder in (self, getattr(self, "_random_sampler", None), getattr(self, "_independent_sampler", None)):
            if holder is not None and hasattr(holder, "_rng"):
                holder._rng.rng.seed(seed)
        super().before_trial(study, trial)  # type: ignore[misc]


class _NSGAII(_Reseeding, NSGAIISampler):
    pass


class _TPE(_Reseeding, TPESampler):
    pass


class _GP(_Reseeding, GPSampler):
    pass


class _Random(_Reseeding, RandomSampler):
    pass


def named_sampler(name: SamplerName, seed: int | None, population_size: int) -> BaseSampler:
    """One of Optuna's samplers for several objectives.

    Args:
        name: `nsga2` (Deb et al. 2002), `tpe` (Ozaki et al. 2022), `gp` or `random`.
        seed: of its draws; None for fresh ones.
        population_size: of NSGA-II; as many trials are drawn at random before TPE and GP begin to model.
    """
    sampler: _NSGAII | _TPE | _GP | _Random
    match name:
        case "nsga2":
            sampler = _NSGAII(population_size=population_size, seed=seed)
        case "tpe":
            sampler = _TPE(n_startup_trials=population_size, seed=seed, multivariate=False)
        case "gp":
            sampler = _GP(n_startup_trials=population_size, seed=seed)
        case "random":
            sampler = _Random(seed=seed)
    sampler.nasopt_seed = seed
    return sampler
