"""Our latency sources keep to the rules of nasopt.testing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lookup_tables import document

from nasopt.config.study import LatencyConfig
from nasopt.measurement.lookup.source import LookupSource
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.predicted.device_profiles import find_profile
from nasopt.measurement.predicted.source import PredictingSource
from nasopt.measurement.sources import LatencySource
from nasopt.testing import LatencySourceTestCase

pytestmark = pytest.mark.integration

BUSY = 0.9
"""A real measurement may be far off on a busy machine; test_latency.py says how exact it is, without a clock."""


def latency(**settings: Any) -> LatencyConfig:
    return LatencyConfig.model_validate({"batch_size": 2, "sequence_length": 16, **settings})


class TestMeasuringSource(LatencySourceTestCase):
    TOLERANCE = BUSY

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Callable[[], LatencySource]:
        return lambda: MeasuringSource(latency(threads=1), torch.device("cpu"))


class TestMeasuringSourceOfRealLengths(LatencySourceTestCase):
    TOLERANCE = BUSY

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Callable[[], LatencySource]:
        return lambda: MeasuringSource(latency(threads=1, lengths="validation"), torch.device("cpu"))


class TestPredictingSource(LatencySourceTestCase):
    TOLERANCE = 1e-9

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Callable[[], LatencySource]:
        return lambda: PredictingSource(latency(device="a100"), find_profile("a100"), ["fp32"])


class TestLookupSource(LatencySourceTestCase):
    TOLERANCE = 1e-9

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], LatencySource]:
        table: Path = tmp_path_factory.mktemp("table") / "table.json"
        table.write_text(json.dumps(document()))
        return lambda: LookupSource(latency(mode="lut", lut=str(table)), ["fp32"])
