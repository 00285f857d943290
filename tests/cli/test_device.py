"""`nasopt device`, as a user calls it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Result, read, run

from nasopt.measurement.predicted.device_profiles import profiles
from nasopt.report.printing import WIDTH

SHAPE = ("--layers", 12, "--hidden-size", 768, "--heads", 12, "--ffn-size", 3072)
A100 = ("--profile", "a100-40gb")
HEADING = "layers,hidden_size,heads,ffn_size,sequence_length,batch_size"


def refused(result: Result) -> str:
    """The one line on stderr; nothing is on stdout."""
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
    return result.err


def test_one_shape() -> None:
    passes = ("--runtime", "tensorrt", "--precision", "fp16", "--sequence-length", 128, "--batch-size", 8)
    record = read("device", "predict", *A100, *SHAPE, *passes)
    assert 0 < record["low"] < record["latency_ms"] < record["high"]
    assert (record["source"], record["profile"], record["extrapolated"]) == ("predicted", "a100-40gb", False)
    assert record["note"] == f"predicted, a100-40gb, +-{record['interval_percent']:.0f} %"
    assert "+-" in run("device", "predict", *A100, *SHAPE).out


@pytest.mark.integration
def test_predicting_imports_no_torch() -> None:
    code = f"import sys, nasopt.cli; sys.argv = {['nasopt', 'device', 'predict', *map(str, (*A100, *SHAPE))]!r}\n"
    code += "try: nasopt.cli.main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'optuna', 'scipy'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_pruned_heads() -> None:
    whole = read("device", "predict", *A100, *SHAPE)
    pruned = ("--layers", 12, "--hidden-size", 768, "--heads", 5, "--head-size", 64, "--ffn-size", 1024)
    assert read("device", "predict", *A100, *pruned)["latency_ms"] < whole["latency_ms"]


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.csv"
    rows = ["s,A100-40GB,tensorrt,int8,12,768,12,3072,128,1,0.6", "s,T4,,,4,312,12,1200,384,16,x"]
    path.write_text("\n".join([f"source,device,runtime,precision,{HEADING},latency_ms", *rows, ""]))
    return path


def test_many_shapes(shapes: Path) -> None:
    records = read("device", "predict", "--shapes", shapes)
    assert [record["profile"] for record in records] == ["a100-40gb", "t4"]
    assert [record["precision"] for record in records] == ["int8", "fp16"]
    assert [record["source"] for record in records] == ["predicted"] * 2
    assert records[0]["layers"] == 12
    rows = list(csv.DictReader(io.StringIO(run("device", "predict", "--shapes", shapes, "-f", "csv").out)))
    assert [float(row["latency_ms"]) for row in rows] == [record["latency_ms"] for record in records]
    table = run("device", "predict", "--shapes", shapes).out
    assert max(map(len, table.splitlines())) <= WIDTH
    assert "predicted, t4, +-" in table
    overruled = read("device", "predict", "--shapes", shapes, "--profile", "h200")
    assert {record["profile"] for record in overruled} == {"h200"}


def test_devices_are_listed() -> None:
    records = {record["name"]: record for record in read("device", "list")}
    assert set(profiles()) | {"cpu"} <= set(records)
    assert records["cpu"]["source"] == "measured"
    assert records["a30"]["fitted_on"] == "tensorrt-10.16/tensorrt/fp16, tensorrt-10.16/tensorrt/int8"
    assert records["a30"]["held_out"]["tensorrt-10.16/tensorrt/int8"]["median"] < 0.15
    assert "datasheet" in records["l4"]["fitted_on"]
    assert "a100-40gb" in run("device", "list").out
    assert "a100-40gb" in run("device", "list", "-f", "csv").out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--profile", "a101", *SHAPE), ["'a101'", "a100-40gb, a100-80gb"]),
        (("--profile", "none.json", *SHAPE), ["none.json"]),
        (SHAPE, ["--profile"]),
        ((*A100, *SHAPE, "--runtime", "tvm"), ["'tvm'", "tensorrt"]),
        ((*A100, *SHAPE, "--precision", "int4"), ["'int4'", "fp16"]),
        ((*A100, *SHAPE[:4]), ["--heads, --ffn-size"]),
        ((*A100, *SHAPE, "--heads", 7), ["7 heads", "--head-size"]),
        ((*A100, *SHAPE, "--batch-size", 0), ["--batch-size"]),
        ((*A100, *SHAPE, "--study", "x", "--trial", 1), ["choose one"]),
        ((*A100, "--study", "x"), ["--trial N"]),
        ((*A100, "--shapes", "none.csv"), ["none.csv", "cannot be read"]),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[object, ...], parts: list[str]) -> None:
    line = refused(run("device", "predict", *arguments))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"{HEADING}\n12,768,12,3072,128,1\n", ["row 1", "--profile"]),
        (f"device,{HEADING}\nA100,12,768,12,3072,128,1\nB9,12,768,12,3072,128,1\n", ["row 2", "'B9'"]),
        (f"device,precision,{HEADING}\nA100,int3,12,768,12,3072,128,1\n", ["row 1", "'int3'"]),
        (f"device,{HEADING}\nA100,twelve,768,12,3072,128,1\n", ["row 1", "layers = 'twelve'"]),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_row(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text(text)
    line = refused(run("device", "predict", "--shapes", path))
    for part in (str(path), *parts):
        assert part in line


@pytest.mark.integration
def test_a_trial(write_study: Callable[..., Path], tmp_path: Path) -> None:
    storage = ("--storage", f"sqlite:///{tmp_path}/nasopt.db")
    assert run("study", "create", write_study(), *storage).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", 1, *storage, "--quiet").code == 0
    trial = ("device", "predict", *A100, "--study", "tiny", *storage, "--trial")
    base = read(*trial, 0, "--precision", "fp16")
    shape = ("--layers", 3, "--hidden-size", 64, "--heads", 4, "--ffn-size", 128)
    setting = ("--batch-size", 4, "--sequence-length", 16)
    same = read("device", "predict", *A100, *shape, *setting)
    assert read(*trial, 0, "--precision", "fp16", *setting)["latency_ms"] == same["latency_ms"]
    assert base["extrapolated"]
    assert read(*trial, 0)["precision"] == "fp32"
    assert "no such trial" in refused(run(*trial, 99))
