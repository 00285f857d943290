"""Conditions on values."""

import optuna
import pytest
from optuna.trial import FrozenTrial

from nasopt.errors import TrialNotFoundError
from nasopt.records.conditions import best_trial, objective_index, parse_condition, satisfying

NAMES = ["quality", "latency_ms", "memory_mb"]


def trials() -> list[FrozenTrial]:
    values = [(0.9, 10.0, 90.0), (0.8, 5.0, 60.0), (0.8, 4.0, 50.0), (0.7, 2.0, 40.0)]
    made = [optuna.trial.create_trial(values=list(row)) for row in values]
    for number, trial in enumerate(made):
        trial.number = number
    return made


@pytest.mark.parametrize(
    ("condition", "number"),
    [
        ("", 0),
        ("memory_mb<60", 2),
        ("memory_mb<=60", 1),
        ("memory_mb < 60 and latency_ms <= 2", 3),
        ("quality>=0.8 and latency_ms<5.0", 2),
        ("memory_mb==40", 3),
        ("latency_ms<1e1", 1),
    ],
)
def test_the_best_quality_that_satisfies_it(condition: str, number: int) -> None:
    assert best_trial(trials(), condition, NAMES).number == number


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("memory_mb<1", "no complete trial"),
        ("size<1", "no value 'size'; the study has quality, latency_ms, memory_mb"),
        ("memory_mb", "cannot be read"),
        ("memory_mb<60 or quality>1", "cannot be read"),
        ("memory_mb<1.2.3", "not a number"),
        ("__import__('os')", "cannot be read"),
    ],
)
def test_what_cannot_be_satisfied_or_read_is_named(condition: str, message: str) -> None:
    with pytest.raises(TrialNotFoundError, match=message):
        best_trial(trials(), condition, NAMES)


def test_parts() -> None:
    (at, compare, bound), *rest = parse_condition("latency_ms >= 2.5", NAMES)
    assert (at, bound, compare(2.5, bound), rest) == (1, 2.5, True, [])


def test_objectives_are_known_without_their_units() -> None:
    names = ["quality", "latency_ms", "latency_ms_long", "memory_mb"]
    for name, place in [("quality", 0), ("latency", 1), ("latency_ms", 1), ("latency_ms_long", 2), ("memory", 3)]:
        assert objective_index(name, names, "--prefer") == place
    with pytest.raises(TrialNotFoundError, match=r"^--prefer: there is no value 'speed'; the study has quality, lat"):
        objective_index("speed", names, "--prefer")


def test_all_that_satisfy_a_condition_keep_their_order() -> None:
    everything = trials()
    assert satisfying(everything, "", NAMES) == everything
    found = satisfying(everything, "quality >= 0.8 and latency > 0", NAMES)
    assert [trial.number for trial in found] == [trial.number for trial in everything if trial.values[0] >= 0.8]
    with pytest.raises(TrialNotFoundError, match=r"^--where: 'fast' cannot be read"):
        satisfying(everything, "fast", NAMES, option="--where")
