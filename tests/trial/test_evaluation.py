"""Evaluating a candidate: its values are those of the artifact, in the order of the objectives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.measurement.sources import LatencySource, make_sources
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import BaseTrial, Context
from nasopt.training.weights import Cut
from nasopt.trial.evaluation import evaluate
from nasopt.trial.preparation import prepare
from nasopt.trial.proposal import base_candidate

pytestmark = pytest.mark.integration


def sources_of(context: Context) -> dict[str, LatencySource]:
    return make_sources(context.config)


def test_the_values_are_quality_latency_and_memory(context: Context) -> None:
    told: list[str] = []
    context.on_phase = lambda phase, done, total: told.append(phase)
    found = evaluate(base_candidate(context), context, sources_of(context), None)
    assert found.values == (
        found.evaluation.quality,
        found.latencies["latency_ms"].value_ms,
        found.memory.weights_mb,
    )
    outputs, labels = found.evaluation.outputs, context.splits["validation"].labels.numpy()
    assert outputs is not None
    assert found.evaluation.quality == pytest.approx((outputs.argmax(axis=1) == labels).mean())
    assert found.parameters == context.base_model.num_parameters()
    # Weights of four bytes, and the positions and types of tokens that are stored beside them.
    assert found.memory.weights_mb == pytest.approx(4 * found.parameters / 1e6, rel=0.02)
    assert found.memory.peak_mb > found.memory.weights_mb
    assert told == ["evaluating", "measuring"]


def test_memory_is_the_peak_where_the_study_says_so(context: Context) -> None:
    peak = replace(context, config=context.config.model_copy(update={"memory": "peak"}))
    found = evaluate(base_candidate(peak), peak, sources_of(peak), None)
    assert found.values[2] == found.memory.peak_mb


def test_a_smaller_candidate_is_compared_with_the_base_trial(context: Context) -> None:
    began = replace(context, base=BaseTrial(0, (0.9, 400.0, 1.0), {}))
    whole = evaluate(base_candidate(began), began, sources_of(began), None)
    architecture = Architecture.masked(began.shape, [1, 0, 0]).with_precision("bf16")
    found = evaluate(Cut().candidate(architecture, began), began, sources_of(began), None)
    assert found.values[1] == pytest.approx(400.0 * found.latencies["latency_ms"].ratio)
    assert found.parameters < whole.parameters
    assert found.memory.weights_mb == pytest.approx(2 * found.parameters / 1e6, rel=0.02)
    assert found.flops < whole.flops / 2


def test_several_latencies_stand_in_their_order(context: Context) -> None:
    (latency,) = context.config.latency
    both = tuple(latency.model_copy(update={"name": name}) for name in ("b", "a"))
    twice = replace(context, config=context.config.model_copy(update={"latency": both}))
    sources = sources_of(twice)
    began = replace(twice, base=BaseTrial(0, (0.9, 100.0, 10_000.0, 1.0), {}))
    found = evaluate(base_candidate(began), began, sources, None)
    assert list(found.latencies) == [item.objective_name for item in both]
    assert 10 * found.values[1] < found.values[2]


def test_a_quality_that_is_not_finite_is_an_error(tmp_path: Path, tiny_bert: Path) -> None:
    """A correlation with outputs that are all the same."""
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        rows = [f"the film was {word},{score + 0.5}" for score, word in enumerate(("bad", "poor", "fine", "great"))]
        (data / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    dataset = {"path": str(data), "text": ["text"], "splits": {"train": "train", "validation": "validation"}}
    task = {"model": str(tiny_bert), "metric": "pearsonr", "dataset": dataset}
    config = StudyConfig.model_validate(
        {"name": "tiny", "method": "genetic", "task": task, "latency": {"sequence_length": 16}}
    )
    context = prepare(config, tmp_path / "tiny", lambda phase, done, total: None, has_trials=False)
    context.base_model.get_parameter("classifier.weight").data.zero_()
    candidate = Candidate(context.base_model, Architecture.full(context.shape), Lineage())
    with pytest.raises(ValueError, match="the quality is nan"):
        evaluate(candidate, context, sources_of(context), None)
