"""Search spaces: flat sets of parameters of fixed length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasopt.samplers.history import proposed_params


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a trial. All of them are always present: conditional ones would be invisible to samplers.

    Attributes:
        distributions: by name, in the order in which they are asked for.
        base: the base model's values; empty if it lies outside what is searched.
        whole: an enqueued trial must name every parameter, or none.
    """

    distributions: Mapping[str, BaseDistribution]
    base: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The trial's parameters.

        Raises:
            ValueError: an enqueued trial names others than the space has, where all are needed.
        """
        if self.whole:
            self._check_asked(proposed_params(trial))
        return {name: _suggest(trial, name, distribution) for name, distribution in self.distributions.items()}

    def _check_asked(self, asked: Mapping[str, Any]) -> None:
        names = list(self.distributions)
        if asked and set(asked) != set(names):
            raise ValueError(
                f"the trial names {len(asked)} parameters, but the study has {len(names)}: enqueue each from "
                f"{names[0]} to {names[-1]}"
            )


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
