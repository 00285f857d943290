"""Predictions from a look-up table and from datasheets, asked for in one way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Result, run
from lookup_tables import document

from nasopt.errors import LookupTableError
from nasopt.measurement.estimates import any_case, predict_any
from nasopt.measurement.predicted.device_profiles import find_profile
from nasopt.measurement.predicted.model import make_case, predict
from nasopt.measurement.predicted.software import RuntimeNotKnownError
from nasopt.measurement.predicted.transformer_cost import Workload


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "device.json"
    path.write_text(json.dumps(document()))
    return str(path)


def workload(layers: int = 2, heads: int = 4, head_size: int = 16, batch: int = 2) -> Workload:
    return Workload.uniform(layers, 64, heads, head_size, 128, length=16, batch=batch)


def test_a_table_predicts_as_a_profile_does(table: str) -> None:
    found = predict_any([any_case(table, None, None, workload())])[0]
    assert found.latency_ms == pytest.approx(1.75 + 2 * (0.1 + 5 + 5))
    assert (found.source, found.profile, found.runtime, found.precision) == (
        "predicted",
        "a test, 1 thread",
        "eager",
        "fp32",
    )
    assert found.note.startswith("predicted, a test, 1 thread, +-")
    assert not found.extrapolated
    beyond = predict_any([any_case(table, "eager", "fp32", workload(batch=4))])[0]
    assert beyond.extrapolated
    assert beyond.note.endswith("extrapolated (batch size 4 > 2)")


def test_cases_of_both_kinds_keep_their_order(table: str) -> None:
    analytic = any_case("a100", None, None, workload(12))
    found = predict_any([analytic, any_case(table, None, None, workload()), analytic])
    expected = predict(make_case(find_profile("a100"), "tensorrt", "fp16", workload(12)))
    assert found[0] == found[2] == expected
    assert found[1].runtime == "eager"


def test_what_the_table_does_not_know(table: str) -> None:
    with pytest.raises(RuntimeNotKnownError, match="look-up table of the runtime eager, not of 'tensorrt'"):
        any_case(table, "tensorrt", None, workload())
    with pytest.raises(LookupTableError, match="has no fp16; it has fp32"):
        any_case(table, None, "fp16", workload())
    with pytest.raises(LookupTableError, match="of heads of size 16, not of 32"):
        any_case(table, None, None, workload(head_size=32))


SHAPE = ["--layers", "2", "--hidden-size", "64", "--heads", "4", "--ffn-size", "128", "--sequence-length", "16"]


def test_command_with_a_table(table: str) -> None:
    result = run("device", "predict", "--profile", table, *SHAPE, "--batch-size", "2", "-f", "json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["latency_ms"] == pytest.approx(1.75 + 2 * (0.1 + 5 + 5))
    assert found["low"] <= found["latency_ms"] <= found["high"]
    assert (found["source"], found["profile"]) == ("predicted", "a test, 1 thread")


def test_command_with_many_shapes(table: str, tmp_path: Path) -> None:
    shapes = tmp_path / "shapes.csv"
    rows = ["layers,hidden_size,heads,ffn_size,sequence_length,batch_size", "2,64,4,128,16,2", "1,64,4,64,16,2"]
    shapes.write_text("\n".join(rows))
    result = run("device", "predict", "--profile", table, "--shapes", str(shapes), "-f", "json")
    assert result.code == 0, result.err
    latencies = [record["latency_ms"] for record in json.loads(result.out)]
    assert latencies == pytest.approx([1.75 + 2 * (0.1 + 5 + 5), 1.75 + 0.1 + 5 + 3])


def test_a_spoilt_table_gets_one_line(table: str) -> None:
    stored = document()
    del stored["threads"]
    Path(table).write_text(json.dumps(stored))
    assert_refused(run("device", "predict", "--profile", table, *SHAPE), "threads: field required")


def assert_refused(result: Result, words: str) -> None:
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1, result.err
