"""Latencies that are looked up: sums worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lookup_tables import document

from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.outside import OutsideArchitecture, OutsideModel
from nasopt.config.study import LatencyConfig
from nasopt.errors import LookupTableError, UnsupportedModelError
from nasopt.measurement.lookup.source import LookupSource
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.subject import Subject

BASE_MS = 1.75 + 3 * (0.1 + 5 + 5)
CANDIDATE_MS = 1.75 + 2 * (0.1 + 3 + 3)


@pytest.fixture
def source(tmp_path: Path) -> LookupSource:
    path = tmp_path / "device.json"
    path.write_text(json.dumps(document()))
    settings: dict[str, Any] = {"mode": "lut", "lut": str(path), "batch_size": 2, "sequence_length": 16}
    return LookupSource(LatencyConfig.model_validate(settings), ["fp32"])


def test_a_looked_up_record_names_the_table(source: LookupSource, subject: Subject) -> None:
    record = source.record(subject, None)
    assert record.base_median_ms == pytest.approx(BASE_MS)
    assert record.value_ms == pytest.approx(record.median_ms) == pytest.approx(CANDIDATE_MS)
    assert (record.profile, record.device, record.threads) == ("a test, 1 thread", "a test", 1)
    assert record.identity == source.identity == "predicted, a test, 1 thread, fit of 2026-11-21"
    assert source.record(subject, 2 * BASE_MS).value_ms == pytest.approx(2 * CANDIDATE_MS)


def test_a_table_is_for_one_kind_of_model(source: LookupSource, subject: Subject) -> None:
    source.check_model(subject.base_model.config)
    other = subject.base_model.config.__class__(hidden_size=64, num_attention_heads=2)
    with pytest.raises(LookupTableError, match="of heads of size 16, but the model's are of size 32"):
        source.check_model(other)
    cells = replace(subject, architecture=CellArchitecture(("conv3",), 64))
    with pytest.raises(MeasurementError, match="no latency can be looked up"):
        source.record(cells, None)


def test_a_model_from_outside_is_looked_up_where_the_table_knows_its_like(
    source: LookupSource, subject: Subject
) -> None:
    model = OutsideArchitecture(OutsideModel("student"), "bert", ((1, 64), (4, 0)), 64, 16)
    source.check_outside(model)
    record = source.record(replace(subject, architecture=model), None)
    assert record.median_ms == pytest.approx(1.75 + (0.1 + 2 + 3) + (0.1 + 5))
    assert record.base_median_ms == pytest.approx(BASE_MS)
    for change, words in (
        ({"model_type": "distilbert"}, "of type distilbert, not bert"),
        ({"head_size": 64}, "of head size 64, not 16"),
        ({"hidden_size": 312}, "of hidden size 312, not 64"),
    ):
        with pytest.raises(LookupTableError, match=words):
            source.check_outside(replace(model, **change))
    with pytest.raises(UnsupportedModelError, match="its latency can only be measured"):
        source.check_outside(replace(model, layers=()))
