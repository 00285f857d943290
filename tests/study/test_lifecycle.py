"""The main job on a tiny model: create, optimise, resume, look, export, load. Real parts throughout."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from cases import mostly_slow
from command_line import read, run, trials_of
from processes import run_code
from study_text import GENETIC, study_text

import nasopt
from nasopt.records import names as attributes

pytestmark = pytest.mark.integration
WriteStudy = Callable[..., Path]
COMPLETE, FAIL, RUNNING = (getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "FAIL", "RUNNING"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Iterator[Path]:
    """Folder of a study of eight trials that has run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    (folder / "tiny.toml").write_text(study_text(tiny_bert, sentiment, OPTIONS, base_epochs=6))
    assert run("study", "create", "tiny.toml").code == 0
    result = run("study", "optimize", "tiny")
    assert result.code == 0, result.err
    yield folder
    os.chdir(before)


OPTIONS = f"""{GENETIC}
quantization_prob = 0.5
precisions = ["fp32", "bf16", "int8"]
"""


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def test_the_base_model_is_trial_0_and_eight_more_follow(here: Path) -> None:
    trials = trials_of()
    assert len(trials) == 9
    base = trials[0]
    assert base["params"] == {
        **{f"{part}_{layer}": full for layer in range(3) for part, full in (("layer", 1), ("heads", 4), ("ffn", 128))},
        "precision": "fp32",
        "training": "none",
    }
    assert base["parent"] is None
    assert base["values"]["quality"] > 0.8
    assert {trial["state"] for trial in trials} == {"COMPLETE"}
    assert all(trial["parent"] is not None for trial in trials[1:])
    assert all(trial["source"] == "measured" for trial in trials)


def test_children_inherit_from_the_population_and_differ(here: Path) -> None:
    trials = trials_of()
    identities = {(json.dumps(trial["params"], sort_keys=True), trial["parent"]) for trial in trials}
    assert len(identities) == len(trials)
    assert any(trial["parent"] != 0 for trial in trials[1:])
    assert all(trial["parent"] < trial["number"] for trial in trials[1:])


def test_lineages_add_up(here: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db")
    for trial in study.trials[1:]:
        parent = study.trials[trial.user_attrs["parent"]]
        for epochs, training in (("finetune_epochs", "finetune"), ("distill_epochs", "distill")):
            expected = parent.user_attrs[epochs] + (trial.params["training"] == training)
            assert trial.user_attrs[epochs] == expected


def test_a_finished_search_needs_no_more_trials(here: Path) -> None:
    result = run("study", "optimize", "tiny")
    assert result.code == 0
    assert "all 8 trials of the search are done" in result.err
    assert len(trials_of()) == 9


def test_show_says_what_matters(here: Path) -> None:
    shown = read("study", "show", "tiny")
    assert shown["method"] == "genetic"
    assert shown["trials"] == {"COMPLETE": 9}
    assert shown["base"] == trials_of()[0]["values"]
    assert shown["hypervolume"] > 0
    assert set(shown["best"]) == {"quality", "latency_ms", "memory_mb"}
    assert "hypervolume" in run("study", "show", "tiny").out


def test_the_front_holds_no_dominated_trial(here: Path) -> None:
    def values(trial: dict[str, Any]) -> np.ndarray:
        return np.array([-trial["values"]["quality"], trial["values"]["latency_ms"], trial["values"]["memory_mb"]])

    front = read("study", "pareto", "tiny")
    everything = trials_of()
    numbers = {trial["number"] for trial in front}
    for trial in everything:
        dominated = any((values(o) <= values(trial)).all() and (values(o) < values(trial)).any() for o in everything)
        assert (trial["number"] in numbers) == (not dominated)
    assert [t["values"]["quality"] for t in front] == sorted((t["values"]["quality"] for t in front), reverse=True)


def test_csv_holds_the_same(here: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("study", "trials", "tiny", "-f", "csv").out)))
    assert [int(row["number"]) for row in rows] == list(range(9))
    assert float(rows[0]["values.quality"]) == trials_of()[0]["values"]["quality"]


def test_only_checkpoints_that_are_needed_are_kept(here: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db")
    kept = {path.stem for path in (here / "nasopt.db.artifacts" / "tiny" / "checkpoints").glob("*.safetensors")}
    front = {study.trials[trial["number"]].user_attrs["checkpoint"] for trial in read("study", "pareto", "tiny")}
    assert front <= kept
    assert kept <= {trial.user_attrs["checkpoint"] for trial in study.trials}
    # Base, front and population: what is neither is gone.
    assert len(kept) <= len(front) + 4 + 1


def test_every_member_of_the_front_exports_to_what_was_measured(here: Path, tmp_path: Path) -> None:
    for trial in read("study", "pareto", "tiny"):
        target = tmp_path / str(trial["number"])
        result = run("study", "export", "tiny", "--trial", trial["number"], "--to", target)
        assert result.code == 0, result.err
        assert result.out.strip() == str(target)
        model, tokenizer = nasopt.load(target)
        with torch.inference_mode():
            logits = model(
                **tokenizer(["a great film", "the plot was awful"], return_tensors="pt", padding=True)
            ).logits
        assert logits.shape == (2, 2)
        from safetensors import safe_open

        with safe_open(target / "model.safetensors", "pt") as file:
            size = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118 - not a mapping
        assert size / 1e6 == pytest.approx(trial["values"]["memory_mb"], rel=1e-6)
        card = (target / "README.md").read_text()
        assert "| accuracy on the test split | " in card


@pytest.mark.integration
def test_onnx_files_carry_their_own_numbers(here: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    target = tmp_path / "onnx"
    result = run("study", "export", "tiny", "--trial", 0, "--format", "onnx", "--to", target)
    assert result.code == 0, result.err
    assert result.err == "trial 0 written and verified:\n"
    assert (target / "model.onnx").is_file()
    card = (target / "README.md").read_text()
    assert "| accuracy on the test split | " in card
    assert "| latency, 2 x 16 tokens, 1 threads, ms (median of " in card
    assert "nasopt.load" not in card
    for trial in read("study", "pareto", "tiny"):
        if trial["params"]["precision"] == "int8":
            command = [
                "study",
                "export",
                "tiny",
                "--trial",
                trial["number"],
                "--format",
                "onnx",
                "--to",
                tmp_path / "m",
            ]
            refused = run(*command)
            assert refused.code == 2
            assert "int8 cannot be written as ONNX" in refused.err
            assert not (tmp_path / "m").exists()


def test_exports_are_not_overwritten(here: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    assert run("study", "export", "tiny", "--best", "", "--to", target).code == 0
    again = run("study", "export", "tiny", "--best", "", "--to", target)
    assert (again.code, "--force" in again.err) == (2, True)
    assert run("study", "export", "tiny", "--best", "", "--to", target, "--force").code == 0


def test_a_trial_whose_checkpoint_is_gone_cannot_be_exported(here: Path, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db")
    artifacts = shutil.copytree(here / "nasopt.db.artifacts", tmp_path / "artifacts")
    key = study.trials[1].user_attrs[attributes.CHECKPOINT]
    (artifacts / "tiny" / "checkpoints" / f"{key}.safetensors").unlink(missing_ok=True)
    result = run("study", "export", "tiny", "--trial", 1, "--to", tmp_path / "m", "--artifacts", artifacts)
    assert result.code == 2
    assert "weights were not kept" in result.err


def test_without_the_artifact_folder_optimize_says_so_and_can_rebuild(here: Path, tmp_path: Path) -> None:
    for file in here.glob("nasopt.db*"):
        if file.is_file():
            shutil.copy(file, tmp_path)
    url = f"sqlite:///{tmp_path}/nasopt.db"
    lost = ["study", "optimize", "tiny", "--n-trials", 1, "--storage", url, "--artifacts", tmp_path / "new"]
    result = run(*lost)
    assert result.code == 2
    assert "--rebuild" in result.err
    result = run(*lost, "--rebuild")
    assert result.code == 0, result.err
    study = optuna.load_study(study_name="tiny", storage=url)
    assert study.trials[-1].state == COMPLETE
    assert study.trials[-1].user_attrs["parent"] == 0


@pytest.mark.usefixtures("study_folder")
def test_data_that_changed_are_refused(write_study: WriteStudy, sentiment: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(sentiment, data)
    assert run("study", "create", write_study(**{str(sentiment): str(data)})).code == 0
    with (data / "train.csv").open("a") as file:
        file.write("a great film,positive\n")
    result = run("study", "optimize", "tiny", "--n-trials", 1)
    assert (result.code, "has changed" in result.err) == (2, True)
    shutil.rmtree(data)
    result = run("study", "optimize", "tiny", "--n-trials", 1)
    assert (result.code, "--data" in result.err) == (2, True)
    result = run("study", "optimize", "tiny", "--n-trials", 1, "--data", sentiment)
    assert result.code == 0, result.err


@pytest.mark.usefixtures("study_folder", "workers_that_start_at_once")
def test_two_workers_share_the_trials(write_study: WriteStudy) -> None:
    assert run("study", "create", write_study()).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", 5, "--workers", 2)
    assert result.code == 0, result.err
    study = optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db")
    assert [trial.state for trial in study.trials] == [COMPLETE] * 6
    assert len({trial.user_attrs["worker"]["pid"] for trial in study.trials[1:]}) == 2
    assert len({(json.dumps(t.params, sort_keys=True), t.user_attrs["parent"]) for t in study.trials}) == 6


INTERRUPTED = """
import os, sys
from nasopt.cli import app
from nasopt.execution.progress import QuietView
def phase(self, number, current, done, total):
    if number == 3 and current == "evaluating":
        QuietView.phase = usual
        os.kill(os.getpid(), {number})

usual, QuietView.phase = QuietView.phase, phase
sys.argv = ["nasopt", "study", "optimize", "tiny", "--n-trials", "100", "--quiet"]
app.main()
"""
"""A search that gets a signal while trial 3 is evaluated."""


@pytest.mark.parametrize(
    "number", mostly_slow([signal.SIGINT, signal.SIGTERM, signal.SIGKILL], (signal.SIGINT, signal.SIGKILL))
)
def test_an_interrupted_search_loses_nothing(
    number: signal.Signals, write_study: WriteStudy, study_folder: Path
) -> None:
    assert run("study", "create", write_study()).code == 0
    ended = run_code(INTERRUPTED.format(number=int(number)))
    assert "Traceback" not in ended.stderr, ended.stderr
    study = optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db")
    before = study.get_trials()
    end = RUNNING if number == signal.SIGKILL else FAIL
    assert [trial.state for trial in before] == [COMPLETE] * 3 + [end], ended.stderr
    result = run("study", "optimize", "tiny", "--n-trials", 2)
    assert result.code == 0, result.err
    after = study.get_trials()
    assert [trial.values for trial in after[:3]] == [trial.values for trial in before[:3]]
    assert [trial.state for trial in after] == [COMPLETE] * 3 + [FAIL] + [COMPLETE] * 2
    assert after[3].user_attrs[attributes.INTERRUPTED]
    assert after[3].user_attrs["failure"].startswith("interrupted")
    assert (after[4].user_attrs[attributes.RETRY_OF], after[4].params) == (3, after[3].params)
    assert not list((study_folder / "nasopt.db.artifacts").rglob(".tmp-*"))


def test_a_python_user_runs_the_same_study(write_study: WriteStudy, study_folder: Path) -> None:
    config = nasopt.StudyConfig.from_toml(write_study())
    objective = nasopt.Objective(config)
    study = optuna.create_study(
        directions=objective.directions, sampler=objective.sampler(seed=0), storage="sqlite:///nasopt.db"
    )
    study.optimize(objective, n_trials=3)
    assert [trial.state for trial in study.trials] == [COMPLETE] * 3
    assert study.trials[0].user_attrs["base"]
    assert (study_folder / "nasopt.db.artifacts" / "tiny").is_dir()
    assert len(study.trials_dataframe()) == 3


def test_any_sampler_can_run_the_study(write_study: WriteStudy, tmp_path: Path) -> None:
    objective = nasopt.Objective(nasopt.StudyConfig.from_toml(write_study()), tmp_path / "artifacts")
    study = optuna.create_study(directions=objective.directions, sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=4)
    states = [trial.state for trial in study.trials]
    assert states.count(COMPLETE) >= 2
    assert not any(trial.user_attrs.get("failure") for trial in study.trials if trial.state == COMPLETE)


def test_threads_of_one_process_are_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    objective = nasopt.Objective(nasopt.StudyConfig.from_toml(write_study()), tmp_path / "artifacts")
    study = optuna.create_study(directions=objective.directions, sampler=objective.sampler())
    with pytest.raises(RuntimeError, match="n_jobs > 1 is refused"):
        study.optimize(objective, n_trials=4, n_jobs=2)


def test_a_failing_candidate_is_recorded_and_the_study_goes_on(write_study: WriteStudy, tmp_path: Path) -> None:
    path = write_study(**{"learning_rate = 1e-3": "learning_rate = 1e30"})
    objective = nasopt.Objective(nasopt.StudyConfig.from_toml(path), tmp_path / "artifacts")
    study = optuna.create_study(directions=objective.directions, sampler=objective.sampler())
    study.optimize(objective, n_trials=5)
    failed = [trial for trial in study.trials if trial.state == FAIL]
    assert len(study.trials) == 5
    assert failed
    assert all("TrainingDivergedError" in trial.user_attrs["failure"] for trial in failed)
    notes = study._storage.get_study_system_attrs(study._study_id)
    assert all("TrainingDivergedError" in notes[f"dashboard:{trial._trial_id}:note_str:0"] for trial in failed)


@pytest.mark.usefixtures("study_folder")
def test_the_target_quality_ends_the_search(write_study: WriteStudy) -> None:
    options = 'target_quality = 0.1\nprecisions = ["fp32", "bf16"]\nmutations = ["remove_any_layer"]'
    path = write_study(
        **{'mutations = ["remove_any_layer", "remove_any_heads", "remove_ffn", "restore"]': options},
    )
    assert run("study", "create", path).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", 30)
    assert result.code == 0, result.err
    assert "reaches the target quality 0.1" in result.err
    trials = trials_of()
    base, last = trials[0]["values"], trials[-1]["values"]
    assert len(trials) < 31
    assert last["latency_ms"] < base["latency_ms"]
    assert last["memory_mb"] < base["memory_mb"]


@pytest.mark.usefixtures("study_folder")
def test_an_exhausted_space_ends_the_search(write_study: WriteStudy) -> None:
    options = 'mutation_prob = 0\ncrossover_prob = 0\nprecisions = ["fp32", "bf16"]'
    assert run("study", "create", write_study(options=options)).code == 0
    result = run("study", "optimize", "tiny")
    assert result.code == 0, result.err
    assert "the search is over: every genotype the method can reach has been tried" in result.err
    assert [(t["state"], t["precision"]) for t in trials_of()][:2] == [("COMPLETE", "fp32"), ("COMPLETE", "bf16")]
    assert run("study", "optimize", "tiny").code == 0
    assert len(trials_of()) == 3


@pytest.mark.usefixtures("study_folder")
def test_no_trial_begins_after_the_timeout(write_study: WriteStudy) -> None:
    assert run("study", "create", write_study()).code == 0
    assert run("study", "optimize", "tiny", "--timeout", 0).code == 0
    assert len(trials_of()) == 1  # the base model is not one of the trials that are asked for


@pytest.mark.usefixtures("study_folder")
def test_several_latencies_are_several_objectives(write_study: WriteStudy) -> None:
    second = '[[latency]]\nname = "online"\nbatch_size = 1\nsequence_length = 8\nthreads = 1'
    path = write_study(extra=second, **{"[latency]\ndevice": '[[latency]]\nname = "batch"\ndevice'})
    assert run("study", "create", path).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", 1)
    assert result.code == 0, result.err
    for trial in trials_of():
        assert list(trial["values"]) == ["quality", "latency_ms_batch", "latency_ms_online", "memory_mb"]
