"""Everything that is stored of a trial, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import optuna
import pytest

from nasopt.architecture.encoder import Architecture
from nasopt.measurement.sources import make_sources
from nasopt.methods.base import Judgement
from nasopt.records.latency import latencies_to_json
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.tasks.base import Evaluation
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import BaseTrial, Context
from nasopt.training.weights import Cut
from nasopt.trial.evaluation import Evaluated, evaluate
from nasopt.trial.proposal import base_candidate
from nasopt.trial.recording import (
    record_failure,
    record_interruption,
    record_rejection,
    record_result,
    record_screening,
)

TRAINING = {"steps": 10, "tokens": 99, "seconds": 1.5, "loss": 0.25}
JUDGEMENT = Judgement({"parameters": -3.0}, {"score": 0.25})


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize", "minimize"])


@pytest.fixture(scope="module")
def measured(prepared: Context) -> Evaluated:
    """The findings about a candidate; its latency was measured."""
    found = evaluate(base_candidate(prepared), prepared, make_sources(prepared.config), None)
    outputs = np.zeros((len(prepared.splits["validation"]), 2), dtype=np.float32)
    return replace(found, evaluation=Evaluation(0.75, outputs), parameters=1000, flops=2_000_000)


Record: TypeAlias = Callable[..., dict[str, Any]]


@pytest.fixture
def record(study: optuna.Study, measured: Evaluated, context: Context) -> Record:
    """(candidate, context, device changes, evaluation) -> the user attributes of a new trial of it."""

    def record(
        candidate: Candidate,
        context: Context = context,
        device_changes: Sequence[str] = (),
        evaluation: Evaluation = measured.evaluation,
    ) -> dict[str, Any]:
        trial, found = study.ask(), replace(measured, evaluation=evaluation)
        record_result(trial, candidate, found, JUDGEMENT, context, device_changes)
        study.tell(trial, [0.75, 5.0, 0.5])
        return dict(trial.user_attrs)

    return record


def small(context: Context) -> Candidate:
    candidate = Cut().candidate(Architecture.masked(context.shape, [1, 0, 1]).with_precision("int8"), context)
    candidate.lineage = Lineage(0, finetune_epochs=2, distill_epochs=1, search_epochs=3, budget=250.5)
    candidate.training, candidate.details = dict(TRAINING), {"distance": 0.5}
    return candidate


def test_a_result_says_what_the_candidate_is(
    study: optuna.Study, context: Context, measured: Evaluated, record: Record
) -> None:
    stored = record(
        small(context), evaluation=replace(measured.evaluation, details={"fluency": 0.5}, by_dimension={4: 0.5})
    )
    assert stored.pop("checkpoint") in context.checkpoints
    assert stored == {
        "latency": latencies_to_json(measured.latencies),
        "memory": measured.memory.to_json(),
        "architecture": "2 layers, 8 heads, 256 FFN neurons",
        "precision": "int8",
        "parent": 0,
        "finetune_epochs": 2,
        "distill_epochs": 1,
        "search_epochs": 3,
        "training_budget": 250.5,
        "training_result": TRAINING,
        "parameters": 1000,
        "flops": 2_000_000,
        "distance": 0.5,
        "score": 0.25,
        "quality_details": {"fluency": 0.5},
        "quality_by_dimension": {"4": 0.5},
    }
    assert study.trials[0].constraints == {"parameters": -3.0}


def test_the_weights_are_stored_for_children(context: Context, record: Record) -> None:
    candidate = small(context)
    weights, architecture = context.checkpoints.read(record(candidate)["checkpoint"])
    assert weights.keys() == candidate.model.state_dict().keys()
    assert architecture == candidate.architecture.with_precision("fp32")


def test_predictions_are_stored_of_classes_and_of_resamples(context: Context, record: Record) -> None:
    store, candidate = PredictionStore(context.folder), small(context)
    record(candidate)
    classes = store.read(0)
    assert classes is not None
    assert (classes.classes, classes.split) == (2, context.splits["validation"].fingerprint)
    assert classes.labels.tolist() == context.splits["validation"].labels.tolist()
    record(candidate, evaluation=Evaluation(0.75, replicates=np.array([0.75, 0.5])))
    replicates = store.read(1)
    assert replicates is not None
    assert replicates.values.tolist() == [0.75, 0.5]
    record(candidate, evaluation=Evaluation(0.75))
    assert store.read(2) is None


def test_the_base_model_is_marked_and_its_control_is_not(study: optuna.Study, context: Context, record: Record) -> None:
    assert record(base_candidate(context))["base"] is True
    study.enqueue_trial({}, user_attrs={"control": "full-0"})
    control = record(base_candidate(context))
    assert "base" not in control
    assert "score" not in control  # a method's scores are of what it has searched
    child = base_candidate(context)
    child.lineage = Lineage(0)
    assert "base" not in record(child)


def test_a_change_of_device_stays_with_the_trial(study: optuna.Study, context: Context, record: Record) -> None:
    stored = record(small(context), device_changes=["latency_ms: here, not there"])
    assert stored["device_change"] == "latency_ms: here, not there"
    assert "**The device has changed:** latency_ms: here, not there" in note(study)


def test_the_note_compares_with_the_base_trial(study: optuna.Study, context: Context, record: Record) -> None:
    record(small(context), replace(context, base=BaseTrial(0, (0.5, 10.0, 1.0), {})))
    text = note(study)
    assert "2 of 3 layers" in text
    assert "Child of trial 0" in text
    quality = next(line for line in text.splitlines() if "`quality`" in line)
    assert [cell.strip() for cell in quality.split("|")[2:5]] == ["0.7500", "0.5000", "1.500"]


def test_why_a_trial_failed_is_one_line(study: optuna.Study) -> None:
    trial = study.ask()
    assert record_failure(trial, MemoryError("no room\nfor it")) == "MemoryError: no room"
    assert trial.user_attrs == {"failure": "MemoryError: no room"}
    assert "**Failed:** `MemoryError: no room`" in note(study)
    assert record_failure(study.ask(), ValueError()) == "ValueError: no message"


def test_an_interruption_is_told_from_a_failure(study: optuna.Study) -> None:
    first, second = study.ask(), study.ask()
    record_interruption(first, KeyboardInterrupt())
    record_interruption(second, KeyboardInterrupt("SIGTERM"))
    assert first.user_attrs == {"interrupted": True, "failure": "interrupted: Ctrl-C"}
    assert second.user_attrs["failure"] == "interrupted: SIGTERM"


def test_a_rejection_says_which_constraints_are_broken(study: optuna.Study) -> None:
    trial = study.ask()
    record_rejection(trial, "too large", {"parameters": 5.0})
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    (stored,) = study.trials
    assert (stored.user_attrs, stored.constraints) == ({"rejected": "too large"}, {"parameters": 5.0})


def note(study: optuna.Study) -> str:
    """The notes of a study's trials, as optuna-dashboard reads them."""
    stored = study._storage.get_study_system_attrs(study._study_id)
    return "".join(str(text) for name, text in stored.items() if "note_str" in name)


def test_a_provisional_result_says_so(study: optuna.Study, context: Context, record: Record) -> None:
    assert "provisional" not in record(small(context))
    candidate = small(context)
    candidate.is_provisional = True
    assert record(candidate)["provisional"] is True
    assert "**Provisional:**" in note(study)


def test_a_screening_says_who_is_better(study: optuna.Study) -> None:
    trial = study.ask()
    record_screening(trial, "trial 3 is better by 0.0400")
    assert trial.user_attrs == {"screened": "trial 3 is better by 0.0400"}
    assert "**Screened:** trial 3 is better by 0.0400." in note(study)
