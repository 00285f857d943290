"""Fitting: on latencies that the model itself made from known constants, and errors on values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nasopt.measurement.predicted.calibration import (
    Held,
    Sample,
    errors_of,
    fit,
    held_out_devices,
    held_out_shapes,
    predicted_ms,
    priors_for,
    rank_correlation,
    read_samples,
)
from nasopt.measurement.predicted.device_profiles import find_profile
from nasopt.measurement.predicted.fitted import HeldOut
from nasopt.measurement.predicted.model import Case
from nasopt.measurement.predicted.software import SOFTWARE
from nasopt.measurement.predicted.transformer_cost import Workload


def samples(*devices: str) -> list[Sample]:
    """A few shapes on each device, without latencies."""
    shapes = [(layers, hidden) for layers, hidden in ((4, 256), (12, 768))]
    return [
        Sample(Case(find_profile(device), SOFTWARE[0], "tensorrt", "fp16", workload), 1.0)
        for device in devices
        for layers, hidden in shapes
        for workload in (
            Workload.uniform(layers, hidden, hidden // 64, 64, 4 * hidden, length=128, batch=batch)
            for batch in (1, 8, 64)
        )
    ]


def measured(cases: list[Sample], **changes: float) -> list[Sample]:
    """The samples with what the model says of them, its constants at their priors but for `changes`."""
    constants = {name: value for name, (value, _) in priors_for(cases).items()} | changes
    return [
        replace(sample, latency_ms=value)
        for sample, value in zip(cases, predicted_ms(constants, cases).tolist(), strict=True)
    ]


def test_a_fit_finds_what_made_the_latencies() -> None:
    truth = {"start_us:tensorrt-10.16": 6.0, "arithmetic_factor:a100-80gb": 0.6, "call_ms:tensorrt-10.16": 0.3}
    made = measured(samples("a100-40gb", "a100-80gb"), **truth)
    constants = fit(made)
    assert predicted_ms(constants, made) == pytest.approx([sample.latency_ms for sample in made], rel=0.08)
    assert constants["arithmetic_factor:a100-80gb"] < 0.8 < constants["arithmetic_factor:a100-40gb"]
    assert all(0 < value <= 1 for name, value in constants.items() if name.startswith("arithmetic:"))


def test_a_device_without_samples_has_no_factors() -> None:
    assert not any("t4" in name for name in fit(measured(samples("a30"))))


def test_what_is_left_out_is_predicted_from_the_rest() -> None:
    made = measured(samples("a100-40gb", "t4"))
    shapes, devices = held_out_shapes(made), held_out_devices(made)
    for held in (shapes, devices):
        assert len(held.samples) == len(made)
        assert np.abs(held.log_ratio).max() < 0.02
    alone = [sample for sample in made if sample.device == "t4"]
    assert held_out_devices(alone).samples == []


def test_errors_by_hand() -> None:
    cases = samples("a30", "t4")[:10]
    measured_ms = np.arange(1.0, 11.0)
    held = Held(
        [replace(sample, latency_ms=value) for sample, value in zip(cases, measured_ms.tolist(), strict=True)],
        measured_ms * np.array([1.1] * 6 + [0.8] * 3 + [2.0]),
    )
    errors = errors_of(held)
    assert errors.count == 10
    assert errors.median == pytest.approx(0.1)
    assert errors.p95 == pytest.approx(np.quantile([0.1] * 6 + [0.2] * 3 + [1.0], 0.95))
    # 90 % of 11 is more than 9: the largest ratio
    assert errors.interval == pytest.approx(1.0)
    # six rising values on one device; 5.6, 6.4, 7.2, 20 on the other
    assert errors.tau == rank_correlation(held) == 1.0


def test_tau_is_within_devices() -> None:
    pair = [replace(sample, latency_ms=value) for sample, value in zip(samples("a30")[:2], (1.0, 2.0), strict=True)]
    other = [replace(sample, latency_ms=value) for sample, value in zip(samples("t4")[:2], (1.0, 2.0), strict=True)]
    assert rank_correlation(Held(pair + other, np.array([2.0, 1.0, 5.0, 6.0]))) == 0.0
    assert rank_correlation(Held(pair[:1], np.array([2.0]))) is None


def test_small_groups_do_not_have_narrow_intervals() -> None:
    cases = samples("a30")
    held = Held([replace(sample, latency_ms=1.0) for sample in cases], np.linspace(1.1, 1.5, len(cases)))
    few = errors_of(Held(held.samples[:1], held.predicted_ms[:1]))
    found = HeldOut(all=errors_of(held), groups={"a/tensorrt/fp16": few})
    assert few.interval < found.all.interval
    assert found.interval("a/tensorrt/fp16") == found.interval("another") == found.all.interval


def test_published_latencies_are_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "published.csv"
    path.write_text(
        "source,device,runtime,precision,layers,hidden_size,heads,ffn_size,sequence_length,batch_size,latency_ms\n"
        "DeepLearningExamples BERT triton/large,T4,tensorrt,fp16,24,1024,16,4096,384,1,14.5\n"
    )
    (sample,) = read_samples(path)
    assert (sample.latency_ms, sample.device, sample.shape) == (14.5, "t4", (24, 1024))
    assert sample.case.family == "triton-2021/tensorrt/fp16"
