"""Stored latencies: every version's records go through the types unchanged, and say where they came from."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from nasopt.errors import StorageError
from nasopt.records.latency import (
    Confirmation,
    MeasuredLatency,
    PredictedLatency,
    confirmations_from_json,
    device_identity,
    latencies_from_json,
    latencies_to_json,
    latency_from_json,
    predicted_words,
    source_of,
)

Document = dict[str, Any]

OLDEST: Document = {
    **{"value_ms": 2.5, "median_ms": 2.6, "p10_ms": 2.4, "p90_ms": 3, "repetitions": 40, "base_median_ms": 5.2},
    **{"ratio": 0.5, "ratio_low": 0.48, "ratio_high": 0.53, "device": "Some CPU", "driver": "", "source": "measured"},
    **{"torch_version": "2.13.0", "dtype": "int8", "threads": 2, "batch_size": 8, "sequence_length": 64},
}
"""A latency as the first version stored it, before there was a choice of runtimes."""
GPU: Document = {**OLDEST, "runtime": "compile", "driver": "550.1", "tf32": True, "cuda_graph": True}
REAL_LENGTHS: Document = {
    **OLDEST,
    **{"runtime": "onnxruntime", "runtime_version": "1.23.0"},
    **{"lengths": "validation", "batches": 32, "mean_length": 21.5},
}
PREDICTED: Document = {
    **{"value_ms": 0.5, "source": "predicted", "profile": "a100-40gb", "device": "a100-40gb", "fitted": "2026-11-20"},
    **{"runtime": "tensorrt", "dtype": "fp16", "batch_size": 8, "sequence_length": 64, "lengths": "fixed"},
    **{"median_ms": 0.5, "low_ms": 0.45, "high_ms": 0.56, "interval_percent": 12.4, "beyond": ["layers", "ffn_size"]},
    **{"base_median_ms": 1.0, "ratio": 0.5},
}
LOOKED_UP: Document = {**PREDICTED, "profile": "A CPU, 1 thread", "device": "A CPU", "threads": 1, "beyond": []}
CONFIRMED: Document = {**OLDEST, "predicted_ms": 3.0, "predicted_ratio": 0.55}
STORED = [OLDEST, GPU, REAL_LENGTHS, PREDICTED, LOOKED_UP]


@pytest.mark.parametrize("document", STORED)
def test_a_record_goes_to_json_and_back_without_loss(document: Document) -> None:
    record = latency_from_json(document)
    assert isinstance(record, MeasuredLatency) == (document["source"] == "measured")
    written = record.to_json()
    assert written == document
    assert json.dumps(written, sort_keys=True) == json.dumps(document, sort_keys=True), "numbers keep their kind"
    assert latency_from_json(written) == record


@pytest.mark.parametrize("document", STORED)
def test_fields_of_another_version_survive(document: Document) -> None:
    newer = {**document, "power_w": [1.5, 2], "runtime": None}
    record = latency_from_json(newer)
    assert record.extra == {"power_w": [1.5, 2], "runtime": None}
    assert record.to_json() == newer
    assert record.runtime_words.startswith("eager")


@pytest.mark.parametrize("document", STORED)
def test_a_damaged_record_names_what_is_missing(document: Document) -> None:
    with pytest.raises(StorageError, match="stored without median_ms, ratio"):
        latency_from_json({name: value for name, value in document.items() if name not in ("median_ms", "ratio")})
    with pytest.raises(StorageError, match="the source 'guessed', which is not known"):
        latency_from_json({**document, "source": "guessed"})


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        MeasuredLatency.from_json(OLDEST).ratio = 1.0  # type: ignore[misc]


def test_a_confirmation_is_what_was_measured_beside_what_was_looked_up() -> None:
    found = Confirmation.from_json(CONFIRMED)
    assert found.to_json() == CONFIRMED
    assert found.measured == MeasuredLatency.from_json(OLDEST)
    assert found.error == pytest.approx(3.0 / 2.5 - 1)
    assert found.ratio_error == pytest.approx(0.55 / 0.5 - 1)
    assert confirmations_from_json({"latency_ms": CONFIRMED}) == {"latency_ms": found}
    with pytest.raises(StorageError, match="without predicted_ms, predicted_ratio"):
        Confirmation.from_json(OLDEST)


def test_threads_are_part_of_a_cpus_identity_only() -> None:
    assert latency_from_json(OLDEST).identity == "measured, Some CPU, 2 threads"
    assert latency_from_json(GPU).identity == "measured, Some CPU"
    assert latency_from_json(PREDICTED).identity == "predicted, a100-40gb, fit of 2026-11-20"
    assert device_identity("AMD EPYC", 1) == "AMD EPYC, 1 thread"
    assert device_identity("AMD EPYC", 8) == "AMD EPYC, 8 threads"
    assert device_identity("NVIDIA H200", 8, is_gpu=True) == "NVIDIA H200"


@pytest.mark.parametrize(
    ("document", "batch", "runtime", "device"),
    [
        (OLDEST, "8 x 64 tokens", "eager", "Some CPU"),
        (GPU, "8 x 64 tokens", "compile, TF32, CUDA graph", "Some CPU, driver 550.1"),
        (
            REAL_LENGTHS,
            "8 x texts of the validation split, at most 64 tokens",
            "onnxruntime 1.23.0",
            "Some CPU",
        ),
        (PREDICTED, "8 x 64 tokens", "tensorrt", "a100-40gb"),
    ],
)
def test_shape_runtime_and_device_in_words(document: Document, batch: str, runtime: str, device: str) -> None:
    record = latency_from_json(document)
    assert (record.batch_words, record.runtime_words, record.device_words) == (batch, runtime, device)


def test_a_measured_latency_in_words() -> None:
    record = latency_from_json(OLDEST)
    assert (record.source_words, record.caveat) == ("measured", "")
    assert record.ratio_words == "0.500 (0.480 to 0.530)"
    assert record.spread_words == "2.600 ms (2.400 to 3.000)"
    assert record.summary == (
        "8 x 64 tokens on Some CPU (eager), 2 threads, torch 2.13.0; ratio to the base model 0.500 "
        "(0.480 to 0.530, 40 pairs); measured"
    )


def test_a_predicted_latency_always_says_so() -> None:
    record = latency_from_json(PREDICTED)
    words = "predicted, a100-40gb, +-12 %, extrapolated (layers, ffn_size)"
    assert (record.source_words, record.caveat) == (words, f" ({words})")
    assert record.ratio_words == "0.500"
    assert record.spread_words == "0.500 ms (interval 0.450 to 0.560)"
    assert record.summary == f"8 x 64 tokens on a100-40gb (tensorrt); ratio to the base model 0.500; {words}"
    assert latency_from_json(LOOKED_UP).source_words == "predicted, A CPU, 1 thread, +-12 %"


def test_several_latencies_of_one_trial() -> None:
    both = latencies_from_json({"latency_ms_here": OLDEST, "latency_ms_cloud": PREDICTED})
    assert latencies_to_json(both) == {"latency_ms_here": OLDEST, "latency_ms_cloud": PREDICTED}
    words = PredictedLatency.from_json(PREDICTED).source_words
    assert predicted_words(both) == f"latency_ms_cloud: {words}"
    assert source_of(both) == "predicted"
    alone = latencies_from_json({"latency_ms": PREDICTED})
    assert predicted_words(alone) == words
    here = latencies_from_json({"latency_ms": OLDEST})
    assert (predicted_words(here), source_of(here)) == (None, "measured")
    assert (predicted_words({}), source_of({})) == (None, None)
