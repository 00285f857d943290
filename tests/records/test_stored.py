"""Studies that the version before the typed records made: read as before, and written back equal."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import run
from processes import NASOPT, run_code
from readers import read_only
from stored_studies import DATABASE, as_before, expected, restore

from nasopt.records import queries
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord

NAMES = ("adabert", "alphanas", "bayesian", "genetic", "looked-up", "taylor")
SHOWN = {"show": ("study", "show"), "trials": ("study", "trials"), "pareto": ("study", "pareto")}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of the stored studies, in a folder of its own."""
    return restore(tmp_path_factory.mktemp("stored"))


def study_of(url: str, name: str) -> optuna.Study:
    """A stored study as Optuna loads it."""
    return optuna.load_study(study_name=name, storage=url)


def folder_of(url: str) -> Path:
    """The folder in which the database lies."""
    return Path(url.removeprefix("sqlite:///")).parent


@pytest.mark.parametrize("name", NAMES)
def test_attributes_that_are_read_and_written_back_are_equal(url: str, name: str) -> None:
    study = study_of(url, name)
    assert StudyRecord.of(study).to_attributes() == study.user_attrs
    for trial in study.trials:
        assert TrialRecord.of(trial).to_attributes() == trial.user_attrs


@pytest.mark.parametrize("name", NAMES)
def test_every_attribute_but_the_methods_own_is_known(url: str, name: str) -> None:
    study = study_of(url, name)
    assert StudyRecord.of(study).details.keys() <= {"nasopt:supernet"}
    own = {"fitness", "score", "distance_to_zero", "validation_losses", "validation_loss_zeroed"}
    for trial in study.trials:
        assert TrialRecord.of(trial).details.keys() <= own
    base = queries.base_of(study)
    assert base is not None
    assert TrialRecord.of(base).memory is not None
    assert TrialRecord.of(base).latencies


@pytest.mark.parametrize("command", SHOWN)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_as_it_was(url: str, name: str, command: str) -> None:
    result = run(*SHOWN[command], name, "--storage", url, "-f", "json")
    assert result.code == 0, result.err
    assert as_before(result.out) == expected(folder_of(url))[name][command]


def test_the_list_tells_of_every_study(url: str) -> None:
    result = run("study", "list", "--storage", url, "-f", "json")
    found: dict[str, Any] = {study["name"]: study for study in json.loads(result.out)}
    assert sorted(found) == sorted(NAMES)
    for name, told in expected(folder_of(url)).items():
        assert found[name]["best"] == told["show"]["best"]
        assert found[name]["trials"] == told["show"]["trials"]


@pytest.mark.integration
def test_a_study_whose_base_is_not_fixed_is_shown_where_nothing_can_be_written(tmp_path: Path) -> None:
    url = restore(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key IN ('nasopt:base', 'nasopt:reference_point')")
    with read_only(tmp_path):
        for command, words in SHOWN.items():
            arguments = (*words, "taylor", "--storage", url, "-f", "json")
            result = run_code(NASOPT, *arguments, cwd=tmp_path, without_overrides=True)
            assert result.returncode == 0, result.stderr
            assert as_before(result.stdout) == expected(tmp_path)["taylor"][command]
    assert StudyRecord.of(study_of(url, "taylor")).base is None


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("genetic", '"runtime": null', '"runtime": "onnxruntime"', "onnxruntime on CPUs .* no artifact in bf16"),
        (
            "looked-up",
            '"confirm": true, "cuda_graph": false, "device": "cpu", "lengths": "fixed", "lut": "@", "mode": "lut"',
            '"cuda_graph": false, "device": "a100", "lengths": "fixed", "lut": null, "mode": "direct"',
            "tensorrt on GPUs .* no artifact in bf16",
        ),
    ],
)
def test_a_study_of_a_pair_that_is_refused_today_is_read_and_only_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str, reason: str
) -> None:
    url = restore(tmp_path)
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
        old = old.replace("@", str(tmp_path.resolve() / "device.json"))
        change = "SET value_json = replace(value_json, ?, ?) WHERE key = 'nasopt:config' AND instr(value_json, ?)"
        named = f'"name": "{name}", "schema"'
        changed = connection.execute(
            f"UPDATE study_user_attributes {change} AND instr(value_json, ?)", (old, new, named, old)
        )
        assert changed.rowcount == 1
    for command, words in SHOWN.items():
        result = run(*words, name, "--storage", url, "-f", "json")
        assert result.code == 0, result.err
        assert as_before(result.out) == expected(tmp_path)[name][command]
    exported = run("study", "export", name, "--trial", 0, "--to", "exported", "--storage", url)
    assert exported.code == 0, exported.err
    assert (tmp_path / "exported" / "model.safetensors").exists()
    refused = run("study", "optimize", name, "--n-trials", 1, "--storage", url)
    assert refused.code == 2
    (line,) = [line for line in refused.err.splitlines() if re.search(reason, line)]
    assert "create a study without it" in line
