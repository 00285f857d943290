"""The plug-in in examples/, installed into a fresh environment: the whole way, and the message where it is missing."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from lookup_tables import document
from study_text import study_text
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "plugin"
OPTIONS = 'trials = 4\nsampler = "random"'


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that sees the packages of this one, and has the plug-in besides."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    interpreter = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    outer = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (packages / "outer.pth").write_text(f"import site; {outer}\n")
    source = shutil.copytree(PLUGIN, folder / "plugin")  # building leaves files beside the source
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", *options, str(source)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    return interpreter


def execute(python: Path, *arguments: object, here: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)


def study_file(folder: Path, model: Path, data: Path, latency: str = "") -> Path:
    text = study_text(model, data, OPTIONS, name="means", method="layer-mean", base_epochs=2)
    file = folder / "means.toml"
    file.write_text(text.replace('device = "cpu"', latency or 'device = "cpu"'))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("means")


@pytest.fixture(scope="module")
def steps(python: Path, folder: Path, tiny_bert: Path, sentiment: Path) -> dict[str, dict[str, Any]]:
    """The result of each step of the way."""
    file = study_file(folder, tiny_bert, sentiment)
    done = execute(python, ROOT / "tests" / "examples" / "whole_way.py", file, here=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_method_goes_the_whole_way(steps: dict[str, dict[str, Any]]) -> None:
    assert "layer-mean" in steps["methods"]["out"]
    commands = {name: step for name, step in steps.items() if "code" in step}
    assert {name: step["code"] for name, step in commands.items()} == dict.fromkeys(commands, 0), commands
    base, *trials = json.loads(steps["trials"]["out"])
    assert (base["params"], base["state"]) == ({}, "COMPLETE")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert all(1 <= trial["params"]["k"] <= 3 for trial in trials)
    assert all(trial["source"] == "measured" for trial in trials)
    assert all(f"k {trial['params']['k']} " in steps["table"]["out"] for trial in trials)
    depths = {member["params"]["k"] for member in json.loads(steps["pareto"]["out"]) if member["params"]}
    assert all(("full-1" if depth == 3 else f"first-{depth}") in steps["controls"]["out"] for depth in depths)


def test_the_exported_folder_needs_no_plugin(steps: dict[str, dict[str, Any]], folder: Path) -> None:
    exported = folder / "exported"
    assert (exported / "modeling_layer_mean.py").is_file()
    model = AutoModelForSequenceClassification.from_pretrained(exported, dtype="auto", trust_remote_code=True).eval()
    inputs = AutoTokenizer.from_pretrained(exported)(
        ["the film was good", "a sad story"], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        logits = model(**inputs).logits.float()
    assert steps["load"]["class"] == type(model).__name__ == "LayerMeanForSequenceClassification"
    assert torch.equal(logits, torch.tensor(steps["load"]["logits"]))


def test_without_the_plugin_its_study_is_an_error_in_one_line(
    steps: dict[str, dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run("study", "optimize", "means")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "'layer-mean' is not a method" in result.err


@pytest.mark.slow
def test_latencies_that_are_not_measured_are_refused(
    python: Path, tiny_bert: Path, sentiment: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps(document()))
    for latency, words in (
        ('device = "a100"\nruntime = "tensorrt"', "latency.device: a100 is not here, and the candidates of layer-mean"),
        (
            f'mode = "lut"\nlut = "{table}"',
            "latency.mode: a look-up table knows encoders of layers, not what layer-mean makes",
        ),
    ):
        file = study_file(tmp_path, tiny_bert, sentiment, latency)
        text = file.read_text()
        precisions = 'precisions = ["fp32"]'
        file.write_text(f"{text}{precisions}\n")
        done = execute(python, "-m", "nasopt", "study", "create", file, here=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
        assert not (tmp_path / "nasopt.db").exists()


@pytest.mark.slow
def test_the_method_passes_the_conformance_tests(python: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(PLUGIN / "tests", tmp_path / "tests")
    done = execute(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, here=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_model_becomes_an_onnx_file(python: Path, steps: dict[str, dict[str, Any]], folder: Path) -> None:
    found = next(trial["number"] for trial in json.loads(steps["pareto"]["out"]) if trial["params"])
    command = ("-m", "nasopt", "study", "export", "means", "--trial", found, "--to", "onnx", "--format", "onnx")
    assert execute(python, *command, here=folder).returncode == 0
    assert (folder / "onnx" / "model.onnx").is_file()
