"""The tables of the CPU benchmark, and its script for optimum; the runs themselves are tried with `--quick`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_tables import tables
from benchmarks.front.figures import packed
from benchmarks.front.results import Results

ROOT = Path(__file__).parents[2]
PLACE = {
    "seed": 0,
    "machine": "a CPU, 2 cores",
    "date": "2026-11-26T02:00:00+00:00",
    "versions": {"torch": "2"},
    "command": "python -m benchmarks.cpu run",
}


def test_a_cell_stands_in_its_row_with_what_is_known_of_its_model(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")

    def add(piece: str, form: str, model: str = "base", load: float = 1.0, **found: Any) -> None:
        results.add(piece=piece, model=model, form=form, load=load, **found, **PLACE)

    right = np.arange(100) < 90
    add("quality", "eager fp32", quality=0.9, examples=100, correct=packed(right), megabytes=90.9)
    add("quality", "onnxruntime int8", quality=0.8, examples=100, correct=packed(np.arange(100) < 80), megabytes=23.0)
    for form, shape, threads, ratio in (
        ("eager fp32", "8x64", 1, 1.0),
        ("compile fp32", "8x64", 1, 0.9),
        ("onnxruntime int8", "8x64", 1, 0.25),
        ("onnxruntime int8", "1x16", 1, 0.2),
        ("onnxruntime int8", "1x16", 2, 0.3),
    ):
        low, high = ratio - 0.01, ratio + 0.01
        add("latency", form, shape=shape, threads=threads, ratio=ratio, ratio_low=low, ratio_high=high, load=9.5)
    lines = tables(results).splitlines()
    assert "* a CPU, 2 cores; 2026-11-26 to 2026-11-26; other processes ran, too: load 1.0 to 9.5" in lines
    first = lines[lines.index("## 1 thread") : lines.index("## 2 threads")]
    assert "| base | compile fp32 | 90.9 | 0.9000 | +0.0 (+0.0 to +0.0) | 0.900 (0.890 to 0.910) |  |" in first
    (row,) = (line for line in first if "int8" in line)
    assert row.startswith("| base | onnxruntime int8 | 23.0 | 0.8000 | -10.0 (")
    assert row.endswith("| 0.250 (0.240 to 0.260) | 0.200 (0.190 to 0.210) |")
    assert any(line.endswith("| 0.300 (0.290 to 0.310) |") for line in lines[lines.index("## 2 threads") :])
    assert "optimum" not in "\n".join(lines)


def test_optimums_script_needs_nothing_of_ours() -> None:
    """Its environment has another version of transformers, so that nasopt cannot be there."""
    script = ROOT / "benchmarks" / "optimum_export.py"
    found = subprocess.run([sys.executable, "-S", script, "--help"], capture_output=True, text=True, check=True)
    assert "logits" in found.stdout
