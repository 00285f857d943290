"""Latencies that are looked up: sums worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lookup_tables import document

from nasopt.architecture.cells import CellArchitecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import LookupTableError
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
