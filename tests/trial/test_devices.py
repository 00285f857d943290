"""Whether this machine's values compare with the base trial's."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from nasopt.measurement.sources import LatencySource, make_sources
from nasopt.training.context import Context
from nasopt.trial.devices import changed_devices
from nasopt.trial.evaluation import Evaluated, evaluate
from nasopt.trial.proposal import base_candidate


@pytest.fixture(scope="module")
def sources(prepared: Context) -> dict[str, LatencySource]:
    return make_sources(prepared.config)


@pytest.fixture(scope="module")
def found(prepared: Context, sources: dict[str, LatencySource]) -> Evaluated:
    """The base model, measured here."""
    return evaluate(base_candidate(prepared), prepared, sources, None)


def base(found: Evaluated, latency: dict[str, Any], memory: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A base trial as it was measured here, but for the changes that are given."""
    attributes = {
        "latency": {"latency_ms": {**found.latencies["latency_ms"].to_json(), **latency}},
        "memory": {**found.memory.to_json(), **memory},
    }
    return optuna.trial.create_trial(values=list(found.values), user_attrs=attributes)


def test_nothing_has_changed_before_there_is_a_base_trial(sources: dict[str, LatencySource]) -> None:
    assert changed_devices(None, sources, measures_memory=True) == []


def test_this_machine_compares_with_itself(found: Evaluated, sources: dict[str, LatencySource]) -> None:
    assert changed_devices(base(found, {}, {}), sources, measures_memory=True) == []


@pytest.mark.parametrize("change", [{"device": "Another CPU"}, {"threads": 7}])
def test_another_device_is_named(
    found: Evaluated, sources: dict[str, LatencySource], change: dict[str, object]
) -> None:
    (text,) = changed_devices(base(found, change, {}), sources, measures_memory=True)
    began, now = text.split(", but the study began with: ")
    assert now.startswith("measured, ")
    assert str(next(iter(change.values()))) in now
    assert began == f"latency_ms: {sources['latency_ms'].identity}"


def test_measured_memory_belongs_to_a_device_and_the_size_of_weights_to_none(
    found: Evaluated, sources: dict[str, LatencySource]
) -> None:
    elsewhere = base(found, {}, {"device": "Another CPU"})
    assert changed_devices(elsewhere, sources, measures_memory=False) == []
    (text,) = changed_devices(elsewhere, sources, measures_memory=True)
    assert text.startswith("memory_mb: measured, ")
    assert text.endswith("but the study began with: measured, Another CPU")
