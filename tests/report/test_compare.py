"""`nasopt study compare`: numbers worked out by hand on two small studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import run, succeed
from invented_studies import invent_study

Values = tuple[float, float, float]


def make(url: str, name: str, base: Values, *members: Values) -> optuna.Study:
    study = invent_study(url, name, qualities=())
    study.add_trial(optuna.trial.create_trial(values=base, user_attrs={"base": True}))
    for values in members:
        study.add_trial(
            optuna.trial.create_trial(values=values, user_attrs={"training_result": {"seconds": 2.5}, "parent": 0})
        )
    return study


def compared(url: str, *words: str) -> Any:
    return json.loads(succeed("study", "compare", *words, "-f", "json", "--storage", url).out)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The same base model on a day when the machine ran at half its pace; the second study's member is better."""
    url = f"sqlite:///{tmp_path}/nasopt.db"
    make(url, "a", (0.9, 10, 100), (0.8, 5, 60), (0.7, 6, 70))
    make(url, "b", (0.9, 20, 100), (0.85, 10, 60))
    return url


def test_latencies_are_shares_where_the_base_model_is_the_same(url: str) -> None:
    found = compared(url, "a", "b")
    assert found["unit"] == "shares of the base model"
    assert found["reference"] == pytest.approx([0, 1.1, 1.1])
    a, b = found["studies"]
    # (0.5, 0.6) up to (1.1, 1.1) is 0.6 x 0.5; the base adds a tenth by a tenth above the member's quality.
    assert a["hypervolume"] == pytest.approx(0.8 * 0.3 + 0.1 * 0.01)
    assert b["hypervolume"] == pytest.approx(0.85 * 0.3 + 0.05 * 0.01)
    assert (a["covered"], b["covered"]) == (1.0, 0.5)
    assert (a["trials"], a["front"], a["training_s"]) == (2, 2, 5.0)
    first, *_, last = found["attainment"]
    assert first == pytest.approx({"latency": 0.5, "a": 0.8, "b": 0.85, "difference": -0.05})
    assert last == pytest.approx({"latency": 1.0, "a": 0.9, "b": 0.9, "difference": 0.0})
    members = [(item["a"], item["b"]) for item in found["nearest"]]
    assert members == [(0, 0), (1, 1)]
    assert found["nearest"][1]["difference"] == pytest.approx({"quality": -0.05, "latency_ms": 0, "memory_mb": 0})


def test_latencies_are_in_ms_where_the_base_models_differ(url: str) -> None:
    make(url, "c", (0.9, 20, 120), (0.85, 12, 80))
    found = compared(url, "a", "c")
    assert found["unit"] == "ms and MB"
    assert found["reference"] == pytest.approx([0, 22, 132])
    assert found["studies"][1]["hypervolume"] == pytest.approx(0.85 * 10 * 52 + 0.05 * 2 * 12)
    assert found["attainment"][0]["b"] is None  # nothing is as fast as 5 ms
    assert found["attainment"][0]["difference"] is None


def test_tables_name_both_studies(url: str) -> None:
    result = succeed("study", "compare", "a", "b", "--storage", url)
    for words in ("quality of a", "quality of b", "nearest of b", "hypervolume", "training_s"):
        assert words in result.out
    assert "latency and memory in shares of the base model; hypervolume up to (0, 1.1, 1.1)" in result.err


def test_what_cannot_be_compared_is_one_line(url: str) -> None:
    study = invent_study(url, "none", qualities=())
    other = make(url, "elsewhere", (0.9, 10, 100))
    other.set_user_attr("nasopt:data", {"dataset": "abc"})
    cases = {"none": "'none' has no base model yet", "elsewhere": "cannot be compared: their data differ"}
    for name, words in cases.items():
        result = run("study", "compare", "a", name, "--storage", url)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert words in result.err
    assert study.trials == []
