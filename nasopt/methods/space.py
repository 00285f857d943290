"""Search spaces: flat sets of parameters of fixed length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a trial, all of which are always present: conditional ones would be invisible to samplers.

    Attributes:
        distributions: by name, in the order in which they are asked for.
        base: the base model's values; empty if it lies outside what is searched.
    """

    distributions: Mapping[str, BaseDistribution]
    base: Mapping[str, Any] = field(default_factory=dict)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The trial's parameters."""
        return {name: _suggest(trial, name, distribution) for name, distribution in self.distributions.items()}


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
