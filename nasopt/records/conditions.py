"""Chooses a trial by a condition on its values: ``memory_mb<60 and latency_ms<=5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence

from optuna.trial import FrozenTrial

from nasopt.errors import TrialNotFoundError, choices

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
CONDITION = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(<=|>=|==|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?\d+)?)\s*")

Condition = tuple[int, Callable[[float, float], bool], float]


def best_trial(trials: Sequence[FrozenTrial], condition: str, metric_names: Sequence[str]) -> FrozenTrial:
    """The trial of the highest quality among those that satisfy every part of a condition.

    Args:
        trials: complete trials, none of them provisional.
        condition: comparisons joined by ``and``; an empty one holds for every trial.
        metric_names: the names of the trials' values, quality first.

    Raises:
        TrialNotFoundError: the condition cannot be read, or no trial satisfies it.
    """
    found = satisfying(trials, condition, metric_names)
    if not found:
        raise TrialNotFoundError(
            f"--best {condition!r}: no complete trial with a checkpoint satisfies it (provisional ones do not count); "
            "loosen it"
        )
    return max(found, key=lambda trial: (trial.values[0], -trial.number))


def satisfying(
    trials: Sequence[FrozenTrial], condition: str, metric_names: Sequence[str], *, option: str = "--best"
) -> list[FrozenTrial]:
    """The trials that satisfy every part of a condition, in their order; arguments as for :func:`best_trial`.

    Args:
        trials: complete trials.
        condition: comparisons joined by ``and``.
        metric_names: the names of the trials' values.
        option: the option that the condition was given by, for errors.

    Raises:
        TrialNotFoundError: the condition cannot be read.
    """
    parts = parse_condition(condition, metric_names, option)
    return [trial for trial in trials if all(compare(trial.values[at], bound) for at, compare, bound in parts)]


def objective_index(name: str, metric_names: Sequence[str], option: str) -> int:
    """The place of an objective among a trial's values: by its name, or its name without the unit (`latency`).

    Raises:
        TrialNotFoundError: there is none of that name.
    """
    found = [place for place, known in enumerate(metric_names) if name in (known, known.removesuffix("_ms"))]
    found += [place for place, known in enumerate(metric_names) if known == f"{name}_mb"]
    if not found:
        raise TrialNotFoundError(f"{option}: there is no value {name!r}; the study has {choices(metric_names)}")
    return found[0]


def parse_condition(condition: str, metric_names: Sequence[str], option: str = "--best") -> list[Condition]:
    """The comparisons of a condition: the index of each value, the operator, and the number to compare with."""
    parts: list[Condition] = []
    for text in re.split(r"\band\b", condition) if condition.strip() else []:
        match = CONDITION.fullmatch(text)
        if match is None:
            raise TrialNotFoundError(
                f'{option}: {text.strip()!r} cannot be read; write for example "memory_mb<60 and latency_ms<=5"'
            )
        name, comparison, bound = match.groups()
        place = objective_index(name, metric_names, option)
        try:
            parts.append((place, OPERATORS[comparison], float(bound)))
        except ValueError:
            raise TrialNotFoundError(f"{option}: {bound!r} is not a number") from None
    return parts
