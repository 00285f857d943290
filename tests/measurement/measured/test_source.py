"""Latencies that are measured on the device at hand."""

from __future__ import annotations

import pytest
import torch

from nasopt.config.study import LatencyConfig
from nasopt.measurement.device import device_name
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.subject import Subject

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")


def source(**settings: object) -> MeasuringSource:
    shape = {"batch_size": 2, "sequence_length": 16, "threads": 1}
    return MeasuringSource(LatencyConfig.model_validate({**shape, **settings}), CPU)


def test_a_measured_record_says_where_and_how(subject: Subject) -> None:
    record = source().record(subject, None)
    assert record.value_ms == pytest.approx(record.ratio * record.base_median_ms)
    assert record.ratio_low <= record.ratio <= record.ratio_high
    assert (record.device, record.driver, record.threads) == (device_name(CPU), "", 1)
    assert (record.torch_version, record.dtype, record.runtime) == (torch.__version__, "fp32", "eager")
    assert (record.batch_size, record.sequence_length) == (2, 16)
    unused = {"runtime_version", "lengths", "batches", "mean_length", "tf32", "cuda_graph"}
    assert unused.isdisjoint(record.to_json()), "what is not used is not stored"
    assert record.identity == source().identity


def test_the_value_is_the_ratio_times_the_base_models_first_latency(subject: Subject) -> None:
    record = source().record(subject, 40.0)
    assert record.value_ms == pytest.approx(40.0 * record.ratio)


def test_real_lengths_are_described(subject: Subject) -> None:
    record = source(lengths="validation").record(subject, None)
    assert (record.lengths, record.batches) == ("validation", 32)
    assert record.mean_length is not None
    assert 4 < record.mean_length <= 12
