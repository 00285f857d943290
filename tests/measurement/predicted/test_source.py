"""Latencies that are predicted from a device's profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.outside import OutsideArchitecture, OutsideModel
from nasopt.config.study import LatencyConfig
from nasopt.errors import StudyFileError
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.predicted.cell_cost import BEYOND
from nasopt.measurement.predicted.device_profiles import find_profile
from nasopt.measurement.predicted.source import PredictingSource, workload_of
from nasopt.measurement.subject import Subject


def source(**settings: Any) -> PredictingSource:
    shape = {"device": "a100", "batch_size": 8, "sequence_length": 32}
    return PredictingSource(LatencyConfig.model_validate({**shape, **settings}), find_profile("a100"), ["fp32"])


def test_a_predicted_record_has_an_interval_and_names_its_profile(subject: Subject) -> None:
    record = source().record(subject, None)
    assert record.low_ms < record.median_ms < record.high_ms
    assert record.value_ms == pytest.approx(record.median_ms)
    assert record.ratio < 1, "the candidate is smaller than the base model"
    assert (record.profile, record.device, record.runtime) == ("a100-40gb", "a100-40gb", "tensorrt")
    assert (record.lengths, record.threads, "threads" in record.to_json()) == ("fixed", None, False)
    assert record.identity == source().identity


def test_the_value_is_the_ratio_times_the_base_models_first_latency(subject: Subject) -> None:
    record = source().record(subject, 40.0)
    assert record.value_ms == pytest.approx(40.0 * record.ratio)


def test_real_lengths_are_averaged(subject: Subject) -> None:
    record = source(lengths="validation").record(subject, None)
    assert record.lengths == "validation"
    assert record.median_ms > 0


def test_a_chain_of_cells_is_predicted_too(subject: Subject) -> None:
    cells = replace(subject, architecture=CellArchitecture(("conv3", "skip", "avgpool"), 64))
    record = source().record(cells, 40.0)
    assert 0 < record.low_ms < record.median_ms < record.high_ms
    assert record.ratio < 1
    assert record.value_ms == pytest.approx(40.0 * record.ratio)
    assert record.beyond == (BEYOND,)
    assert f"extrapolated ({BEYOND})" in record.source_words
    assert source(lengths="validation").record(cells, None).median_ms > 0


def test_what_cannot_be_predicted_is_refused(subject: Subject) -> None:
    other = replace(subject, architecture=object())  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="no latency can be predicted"):
        workload_of(other.architecture, subject.shape, 32, 8)
    with pytest.raises(StudyFileError, match="not in int4"):
        PredictingSource(source().latency, find_profile("a100"), ["int4"])


def test_a_model_from_outside_is_predicted_by_its_own_sizes(subject: Subject) -> None:
    shape = subject.shape
    layers = ((shape.num_heads, shape.ffn_size),) * shape.num_layers
    same = OutsideArchitecture(OutsideModel("m"), "bert", layers, shape.hidden_size, shape.head_size)
    full = workload_of(Architecture.full(shape), shape, 32, 8)
    assert workload_of(same, shape, 32, 8) == full
    source().check_outside(same)
    wider = replace(same, hidden_size=4 * shape.hidden_size, layers=layers[:1])
    record = source().record(replace(subject, architecture=wider), None)
    assert record.base_median_ms == source().record(replace(subject, architecture=same), None).median_ms
