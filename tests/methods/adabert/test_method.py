"""AdaBERT as a method: options, the supernet as a step of a study, trials out of it, controls, export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from command_line import read, run
from killing import run_killed
from lookup_tables import document
from pydantic import ValidationError

import nasopt
from nasopt.architecture.cells import CellArchitecture
from nasopt.execution.controls import member_of
from nasopt.measurement.predicted.cell_cost import BEYOND
from nasopt.methods.adabert.collapse import cures
from nasopt.methods.adabert.method import AdaBERTMethod
from nasopt.methods.adabert.options import AdaBERTOptions
from nasopt.methods.registry import available
from nasopt.models.building import build
from nasopt.models.modeling_adabert import AdaBertForSequenceClassification
from nasopt.records.names import CHECKPOINT, IS_BASE
from nasopt.samplers.adabert import SUPERNET
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration

WriteStudy = Callable[..., Path]

OPTIONS = """trials = 3
hidden_size = 16
cells = 2
layer_pairs = [[0, 0], [1, 2], [2, 3]]
efficiency_weight = 0.1
search_epochs = 3
warmup_epochs = 1
search_batch_size = 16
search_learning_rate = 1e-2
architecture_learning_rate = 0.1
"""


@pytest.fixture
def write_adabert(write_study: WriteStudy) -> WriteStudy:
    def write(name: str = "cells", **replacements: str) -> Path:
        return write_study(name, method="adabert", options=OPTIONS, **replacements)

    return write


def make(path: Path, tmp_path: Path, **arguments: object) -> tuple[Objective, optuna.Study]:
    objective = nasopt.Objective(nasopt.StudyConfig.from_toml(path), tmp_path / "artifacts", **arguments)  # type: ignore[arg-type]
    return objective, optuna.create_study(directions=objective.directions, sampler=objective.sampler())


def test_it_is_found_by_name() -> None:
    assert available()["adabert"] is AdaBERTMethod


def test_a_temperature_is_above_0() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        AdaBERTOptions(temperature=0.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[2, 3]]", "[2, 4]]", "(2, 4): the base model has the hidden states 0 to 3"),
        ("[2, 3]]", "[3, 3]]", "(3, 3): the student has the hidden states 0 to 2"),
        ("cells = 2", "cells = 2\nembedding_rank = 17", "a rank above 16"),
        ("cells = 2", "cells = 2\ntask_weight = 0\ndistillation_weight = 0", "the network would learn nothing"),
        ("cells = 2", "cells = 2\ntemperature = 0", "method_options.temperature"),
        ("cells = 2", "cells = 2\noperations = 2", "unknown key"),
    ],
)
def test_create_refuses_in_one_line(
    write_adabert: WriteStudy, tmp_path: Path, old: str, new: str, message: str
) -> None:
    result = run("study", "create", write_adabert(**{old: new}), "--storage", f"sqlite:///{tmp_path}/s.db")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
def test_the_whole_way_on_the_command_line(write_adabert: WriteStudy, tmp_path: Path) -> None:
    storage = ("--storage", f"sqlite:///{tmp_path}/s.db")
    assert run("study", "create", write_adabert(), *storage).code == 0
    assert run("study", "optimize", "cells", *storage, "--quiet").code == 0
    trials = read("study", "trials", "cells", *storage)
    base, *students = trials
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert base["params"] == {}
    assert all(trial["parent"] == 0 for trial in students)
    assert len({tuple(trial["params"].values()) for trial in students}) == 3
    assert all(trial["values"]["memory_mb"] < base["values"]["memory_mb"] / 8 for trial in students)
    study = optuna.load_study(study_name="cells", storage=storage[1])
    record = study.user_attrs[SUPERNET]
    assert list(students[0]["params"].values()) == record["chosen"][-1]  # the most probable one comes first
    epochs = [(t.user_attrs["search_epochs"], t.user_attrs["distill_epochs"]) for t in study.trials]
    assert epochs == [(0, 0), (3, 1), (3, 1), (3, 1)]
    shown = read("study", "show", "cells", *storage)
    assert shown["supernet"] == {"epochs": 3, "verdict": record["text"]}
    assert "supernet" in run("study", "show", "cells", *storage).out
    kept = read("study", "pareto", "cells", *storage)
    number = next(trial["number"] for trial in kept if trial["number"])
    for form in ("hf", "onnx"):
        if form == "onnx":
            pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
        to = tmp_path / form
        result = run("study", "export", "cells", "--trial", number, "--to", to, "--format", form, *storage)
        assert result.code == 0, result.err
    model, tokenizer = nasopt.load(tmp_path / "hf")
    assert isinstance(model, AdaBertForSequenceClassification)
    assert model(**tokenizer(["a good film"], return_tensors="pt")).logits.shape == (1, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_a_search_for_a_device_that_is_not_here(write_adabert: WriteStudy, tmp_path: Path) -> None:
    storage = ("--storage", f"sqlite:///{tmp_path}/s.db")
    assert run("study", "create", write_adabert(**{'device = "cpu"': 'device = "a100"'}), *storage).code == 0
    result = run("study", "optimize", "cells", *storage, "--quiet")
    assert result.code == 0, result.err
    base, *students = read("study", "trials", "cells", *storage)
    assert [trial["state"] for trial in (base, *students)] == ["COMPLETE"] * 4
    study = optuna.load_study(study_name="cells", storage=storage[1])
    found = [trial.user_attrs["latency"]["latency_ms"] for trial in study.trials]
    assert all(item["beyond"] == [BEYOND] for item in found[1:])
    assert BEYOND not in found[0]["beyond"]
    asked = ("--profile", "a100", "--study", "cells", "--trial", students[0]["number"], "--precision", "fp32")
    assert read("device", "predict", *asked, *storage)["latency_ms"] == pytest.approx(found[1]["median_ms"])


def test_a_look_up_table_is_refused_before_anything_is_trained(write_adabert: WriteStudy, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps(document()))
    path = write_adabert(**{'device = "cpu"': f'device = "cpu"\nmode = "lut"\nlut = "{table}"'})
    result = run("study", "create", path, "--storage", f"sqlite:///{tmp_path}/s.db")
    assert result.code == 2
    assert "latency.mode: a look-up table knows encoders of layers, not what adabert makes" in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "s.db").exists()


def test_a_search_that_is_killed_goes_on(write_adabert: WriteStudy, tmp_path: Path) -> None:
    path = write_adabert()
    records = []
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
        storage = ("--storage", f"sqlite:///{tmp_path}/{folder}/s.db")
        assert run("study", "create", path, *storage).code == 0
        optimize = ("study", "optimize", "cells", "--n-trials", 1, *storage)
        if folder == "killed":
            run_killed("supernet", *optimize)
            assert SUPERNET not in optuna.load_study(study_name="cells", storage=storage[1]).user_attrs
        assert run(*optimize, "--quiet").code == 0
        study = optuna.load_study(study_name="cells", storage=storage[1])
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
        records.append((study.user_attrs[SUPERNET], study.trials[1]))
    (whole, whole_trial), (killed, killed_trial) = records
    assert killed["checkpoint"] == whole["checkpoint"]
    assert killed["theta"] == whole["theta"]
    assert killed_trial.params == whole_trial.params
    assert killed_trial.user_attrs[CHECKPOINT] == whole_trial.user_attrs[CHECKPOINT]


def test_controls_are_made_like_members(
    write_adabert: WriteStudy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="nasopt"):
        objective, study = make(write_adabert(**{"efficiency_weight = 0.1": "efficiency_weight = 50"}), tmp_path)
        study.enqueue_trial({}, user_attrs={IS_BASE: True})
        study.optimize(objective, n_trials=2)
    assert study.user_attrs[SUPERNET]["verdict"] == "parameter-free"
    warning = next(record.getMessage() for record in caplog.records if "supernet" in record.getMessage())
    assert f"what helped elsewhere: {cures('parameter-free')}" in warning
    context = objective.prepare(study)
    method, family = objective.method, objective.method.controls
    assert family is not None
    members = [member_of(trial, context.checkpoints) for trial in study.trials[1:]]
    found = family.propose(members, context.shape, random_masks=1, seed=1)
    assert [control.label for control in found] == ["bag-of-embeddings", "random-cells-0"]
    for control in found:
        architecture, source = family.make(control.recipe, context)
        candidate = source.candidate(architecture, context)
        assert candidate.architecture == architecture
        assert isinstance(candidate.architecture, CellArchitecture)
        assert candidate.lineage.parent == 0
        assert candidate.lineage.search_epochs + candidate.lineage.distill_epochs == 4
        rebuilt = build(architecture, context.task.load_model())
        rebuilt.load_state_dict(candidate.model.state_dict())
        ids = torch.tensor([[2, 5, 6, 3]])
        with torch.inference_mode():
            assert torch.equal(rebuilt.eval()(ids).logits, candidate.model(ids).logits)
    params = study.trials[1].params
    member = method.weights(params, context).candidate(method.architecture(params, context), context)
    key = context.checkpoints.write(member.model.state_dict(), member.architecture)
    assert key == study.trials[1].user_attrs[CHECKPOINT]  # the same work gives the same weights
