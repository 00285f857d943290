"""Records of trials: reading and writing back is the identity, whatever is there and whatever is not."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasopt.records.trial import ControlRecord, MemoryRecord, TrialRecord, control_marks, with_parent

WHOLE: dict[str, Any] = {
    "worker": {"host": "here", "pid": 1, "started": 1.5},
    "memory": {"weights_mb": 1.5, "peak_mb": 2.0, "device": "cpu: some"},
    "quality_details": {"sts": 0.5, "signature": "x"},
    "quality_by_dimension": {"256": 0.5, "64": 0.25},
    "checkpoint": "0" * 64,
    "architecture": "2 of 3 layers",
    "precision": "int8",
    "parent": None,
    "finetune_epochs": 0,
    "distill_epochs": 2,
    "search_epochs": 0,
    "training_budget": 320.0,
    "training_result": {"steps": 10, "loss": 0.5},
    "parameters": 1000,
    "flops": 2000,
    "fitness": 0.5,
    "base": True,
}
ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.just({}), st.just({"x": [1, None]}))
NAMES = [
    *WHOLE,
    *(
        "control",
        "control_recipe",
        "control_depth",
        "failure",
        "interrupted",
        "died",
        "rejected",
        "repeats",
        "retry_of",
    ),
    *("exhausted", "device_change", "latency", "score", "distance_to_zero"),
]


def stored(attributes: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A trial with these user attributes."""
    return optuna.trial.create_trial(value=0.0, user_attrs=attributes)


def test_a_whole_trial_is_read_by_its_parts() -> None:
    record = TrialRecord.of(stored(WHOLE))
    assert record.memory == MemoryRecord(1.5, 2.0, "cpu: some")
    assert (record.parent, record.nulls) == (None, {"parent"})
    assert record.distill_epochs == 2
    assert record.details == {"fitness": 0.5}
    assert record.control is None
    assert record.to_attributes() == WHOLE


@pytest.mark.parametrize("count", range(len(WHOLE)))
def test_a_partial_trial_gets_no_attribute_that_was_not_there(count: int) -> None:
    some = dict(list(WHOLE.items())[:count])
    assert TrialRecord.of(stored(some)).to_attributes() == some


@given(st.dictionaries(st.sampled_from(NAMES), ODD))
def test_whatever_is_stored_stays_as_it_is(attributes: dict[str, Any]) -> None:
    found = TrialRecord.of(stored(attributes)).to_attributes()
    assert found == attributes
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in attributes.items()}


def test_a_running_trial_is_written_to_and_keeps_what_the_record_does_not_say() -> None:
    trial = optuna.create_study().ask()
    TrialRecord(worker={"pid": 1}).write_to(trial)
    TrialRecord(failure="no", details={"score": 1.0}, **with_parent(None)).write_to(trial)
    assert trial.user_attrs == {"worker": {"pid": 1}, "failure": "no", "score": 1.0, "parent": None}
    assert TrialRecord(**with_parent(3)).to_attributes() == {"parent": 3}


def test_a_control_is_marked_by_three_attributes() -> None:
    marks = control_marks("first-2", {"layers": [0, 1]}, None).to_attributes()
    assert marks == {"control": "first-2", "control_recipe": {"layers": [0, 1]}, "control_depth": None}
    assert TrialRecord.of(stored(marks)).control == ControlRecord("first-2", {"layers": [0, 1]})
    assert control_marks("first-2", {}, 2).to_attributes()["control_depth"] == 2
