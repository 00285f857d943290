"""`nasopt device profile`: writes a table, or says in one line what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from transformers import BertConfig

from nasopt.measurement.lookup.table import LookupTable

pytestmark = [pytest.mark.usefixtures("study_folder"), pytest.mark.integration]

SHAPE = ["--hidden-size", "32", "--heads", "2", "--ffn-size", "64"]
QUICK = ["--batch-size", "2", "--sequence-length", "8", "--threads", "1", "--seconds", "0.1"]


def test_a_shape_is_profiled(study_folder: Path) -> None:
    result = run("device", "profile", "--out", "device.json", *SHAPE, *QUICK, "--precision", "bf16")
    assert result.code == 0, result.err
    assert result.out == "device.json\n"
    assert "measuring ... 100 %" in result.err
    assert "models off the grid were predicted to +-" in result.err
    table = LookupTable.read(study_folder / "device.json")
    assert (table.threads, table.precisions, table.head_size) == (1, ["bf16"], 16)


@pytest.mark.slow
def test_a_models_shape_is_profiled_quietly(study_folder: Path) -> None:
    sizes = {"hidden_size": 48, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    BertConfig(**sizes, vocab_size=50).save_pretrained(study_folder / "model")
    result = run("device", "profile", "--out", "device.json", "--model", "model", *QUICK, "--quiet")
    assert (result.code, result.err) == (0, "")
    entries = json.loads((study_folder / "device.json").read_text())["entries"]
    assert {entry["hidden_size"] for entry in entries} == {48}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a model by --model, or a shape by --hidden-size, --heads and --ffn-size"),
        (["--model", "x", "--heads", "2"], "--model has its own --heads"),
        (["--model", "./absent"], "there is no such folder"),
        (["--hidden-size", "33", "--heads", "2", "--ffn-size", "64"], "--hidden-size 33 must be a multiple"),
        ([*SHAPE, "--precision", "fp8"], "--precision fp8: one of fp32, bf16, fp16, int8, int4"),
        ([*SHAPE, "--out", "absent/device.json"], "not a file in an existing folder"),
        ([*SHAPE, "--sequence-length", "100000"], "the model reads at most 512 tokens"),
        ([*SHAPE, "--device", "abacus"], "`abacus`"),
        ([*SHAPE, "--threads", "0"], "--threads"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], words: str) -> None:
    result = run("device", "profile", "--out", "device.json", *arguments)
    assert result.code == 2, result.err
    assert words in result.err
    assert result.err.count("\n") == 1, result.err
    assert not Path("device.json").exists()
