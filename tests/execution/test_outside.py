"""Models from outside, added to a tiny study from the command line: a student that is trained, earlier exports, those
that are refused, and one whose evaluation is interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_refused, read, run, succeed
from optuna.trial import FrozenTrial, TrialState
from outside_models import with_labels, write_student
from study_text import LATENCY, study_text

import nasopt
from nasopt.execution.search import run_base, run_trials
from nasopt.host.identity import host
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.report.figures import draw
from nasopt.storage.rdb import parse_url, resolve_url
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.study.opening import OpenStudy, open_study
from nasopt.training import outside
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration
WriteStudy = Callable[..., Path]
FULL = {f"{part}_{layer}": full for layer in range(3) for part, full in (("layer", 1), ("heads", 4), ("ffn", 128))}
PRUNED = {**FULL, "layer_1": 0, "heads_1": 0, "ffn_1": 0, "heads_0": 2, "precision": "fp32", "training": "finetune"}
EPOCHS = 4
LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Path:
    """Folder of a study with a member whose layers differ in size (trial 1), its export, and that of the base model."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(study_text(tiny_bert, sentiment, base_epochs=EPOCHS))
    url = f"sqlite:///{folder}/nasopt.db"
    succeed("study", "create", folder / "tiny.toml", "--storage", url)
    opened = open_study(parse_url(url), "tiny")
    objective = Objective(opened.config, opened.artifacts)
    run_base(opened, objective)
    opened.study.enqueue_trial(PRUNED, user_attrs={"parent": 0})
    left = iter([True])
    run_trials(opened, objective, lambda: next(left, False), lambda trial: None)
    for number, name in ((0, "base"), (1, "pruned")):
        succeed("study", "export", "tiny", "--trial", number, "--to", folder / name, "--storage", url)
    return folder


@pytest.fixture
def opened(searched: Path, study_folder: Path) -> OpenStudy:
    """A copy of that study in the current folder, with a student that has no head."""
    shutil.copytree(searched, study_folder, dirs_exist_ok=True)
    write_student(study_folder / "student")
    reopened().study.set_user_attr(attributes.ARTIFACTS, str(study_folder / "nasopt.db.artifacts"))
    return reopened()


def reopened() -> OpenStudy:
    return open_study(parse_url(resolve_url(None)), "tiny")


def outside_of(opened: OpenStudy) -> list[FrozenTrial]:
    return [trial for trial in opened.study.get_trials() if queries.outside_of(trial) is not None]


def test_a_student_is_trained_and_compared(opened: OpenStudy) -> None:
    assert_refused(run("study", "add", "tiny", "--model", "student"), "has no head for text-classification", "--train")
    first = succeed("study", "add", "tiny", "--model", "student", "--train")
    (trial,) = outside_of(opened)
    assert trial.state == TrialState.COMPLETE
    attrs = trial.user_attrs
    assert attrs["control"] == "student, trained"
    assert (attrs["finetune_epochs"], attrs["precision"], attrs["parent"]) == (EPOCHS, "fp32", None)
    assert attrs["architecture"] == "2 layers, 4 heads, 128 FFN neurons, hidden size 32"
    assert attrs["training_result"]["steps"] == EPOCHS * 10  # 160 texts in batches of 16
    assert 0 < attrs["training_budget"] < EPOCHS * 160 / 2  # its passes cost less than half of the base model's
    assert trial.values[0] > 0.8  # it has learned
    assert attrs["latency"]["latency_ms"]["dtype"] == "fp32"
    assert "student, trained (trial 2)" in first.err
    # the same texts and labels, whatever the tokens
    store = PredictionStore(opened.folder)
    mine, base = store.read(2), store.read(0)
    assert mine is not None
    assert base is not None
    assert mine.split == base.split
    assert (mine.labels == base.labels).all()
    # nobody counts it
    assert {trial.number for trial in queries.complete_trials(opened.study)} == {0, 1}
    # once only, wherever the folder is
    shutil.copytree("student", "elsewhere")
    second = succeed("study", "add", "tiny", "--model", "elsewhere", "--train")
    assert "it is there already, as trial 2; nothing was done" in second.err
    assert len(outside_of(opened)) == 1
    check_what_is_shown(opened, trial)
    check_export(opened, trial)


def check_what_is_shown(opened: OpenStudy, trial: FrozenTrial) -> None:
    """`pareto`, `report` and the figure of a front with one member (trial 1) beside the student."""
    result = succeed("study", "pareto", "tiny", "-f", "json")
    records = {record["number"]: record for record in json.loads(result.out)}
    member = records[1]["values"]
    assert member["memory_mb"] > trial.values[2]
    better = trial.values[0] >= member["quality"] and trial.values[1] <= member["latency_ms"]
    if (found := records[1]["outside"]) is None:  # on a busy machine a latency may be anything
        assert trial.values[1] > member["latency_ms"]
    else:
        assert (found["model"], found["trial"], found["dominated"]) == ("student, trained", trial.number, better)
        assert found["difference"] == pytest.approx(member["quality"] - trial.values[0])
        assert found["low"] <= found["difference"] <= found["high"]
        assert "the best outside model as fast as they are" in result.err
    assert records[1]["comparison"] is None  # it is no control of the search's
    assert ("student, trained (trial 2) dominates trial 1" in result.err) == better
    table = succeed("study", "pareto", "tiny").out
    assert "verdict on it" in table
    assert "best control" not in table
    report = read("study", "report", "tiny")
    assert [item["control"] for item in report["outside"]] == ["student, trained"]
    assert report["outside"][0]["dominates"] == ([1] if better else [])
    assert (len(report["headline"]["sentences"]) == 3) == better
    succeed("study", "report", "tiny", "--to", "report.html")
    page = Path("report.html").read_text()
    assert "Models from outside" in page
    assert "student, trained" in page
    marks = {trace.name: trace for trace in draw(opened.study, "front", opened.folder).data}
    assert marks["outside models"].text == ("student, trained",)
    assert "controls" not in marks
    assert "student, trained" in succeed("study", "trials", "tiny").out
    notes = opened.study._storage.get_study_system_attrs(opened.study._study_id)
    assert any("a model from outside the study. Epochs on the study's data: 4" in str(text) for text in notes.values())


def check_export(opened: OpenStudy, trial: FrozenTrial) -> None:
    """Weights that are nowhere else stay, and are exported with the model's own tokenizer."""
    Objective(opened.config, opened.artifacts).collect(opened.study)
    succeed("study", "export", "tiny", "--trial", trial.number, "--to", "trained")
    model, tokenizer = nasopt.load("trained")
    assert model.config.id2label == dict(enumerate(LABELS))
    assert tokenizer("it")["input_ids"] == [2, 15, 3]
    assert "Made from `student` by 4 epochs of training" in Path("trained/README.md").read_text()
    succeed("study", "add", "tiny", "--model", "trained")
    assert outside_of(opened)[-1].values[0] == trial.values[0]


def test_an_earlier_export_and_a_head_in_another_order(opened: OpenStudy) -> None:
    succeed("study", "add", "tiny", "--model", "pruned")
    base, tokenizer = nasopt.load("base")
    with_labels(base, [1, 0], ["POSITIVE", "Negative"]).save_pretrained("reversed")
    tokenizer.save_pretrained("reversed")
    succeed("study", "add", "tiny", "--model", "reversed")
    pruned, reversed_ = outside_of(opened)
    trials, store = opened.study.get_trials(), PredictionStore(opened.folder)
    assert pruned.user_attrs["architecture"].startswith("2 layers, 6 heads, 256 FFN neurons")
    for mine, original in ((pruned, trials[1]), (reversed_, trials[0])):
        assert mine.values[0] == original.values[0]
        assert mine.values[2] == original.values[2]
        assert mine.user_attrs["parameters"] == original.user_attrs["parameters"]
        assert mine.user_attrs["finetune_epochs"] == 0
        theirs, its = store.read(original.number), store.read(mine.number)
        assert theirs is not None
        assert its is not None
        assert (its.values == theirs.values).all()
    assert queries.is_base(trials[0])
    assert not queries.is_base(reversed_)


def write_wrong(folder: Path, kind: str) -> None:
    """A model that cannot be added, for each kind of mistake."""
    if kind == "three labels":
        write_student(folder, ["negative", "neutral", "positive"])
    elif kind == "other labels":
        write_student(folder, ["toxic", "fine"])
    elif kind == "no tokenizer":
        write_student(folder, LABELS)
        for file in folder.glob("token*"):
            file.unlink()
    elif kind == "lost weights":
        write_student(folder, LABELS)
        (folder / "model.safetensors").unlink()
    elif kind == "other weights":
        write_student(folder, LABELS)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_dim": 96}))
    elif kind == "short":
        write_student(folder, LABELS)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    elif kind == "quantised":
        write_student(folder, LABELS)
        config = json.loads((folder / "config.json").read_text())
        quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    elif kind == "decoder":
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("absent", ["there is no such folder"]),
        ("three labels", ["its head has 3 classes", "the study has 2", "pass --train to train a new head"]),
        ("other labels", ["negative, positive are not the classes of the model's head (toxic, fine)", "pass --train"]),
        ("no tokenizer", ["holds no tokenizer"]),
        ("lost weights", ["holds no weights"]),
        ("other weights", ["its checkpoint is of another model"]),
        ("short", ["latency.sequence_length: 16, but the model reads at most 8 tokens"]),
        ("quantised", ["its weights are quantised", "fp32"]),
        ("decoder", ["which has a decoder; this needs an encoder"]),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, parts: list[str]
) -> None:
    monkeypatch.chdir(searched)
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)
    write_wrong(tmp_path / "wrong", kind)
    assert_refused(run("study", "add", "tiny", "--model", tmp_path / "wrong"), *parts)
    assert len(reopened().study.get_trials()) == 2  # nothing was queued


def test_a_head_of_other_labels_is_trained_anew(opened: OpenStudy) -> None:
    write_student(Path("toxic"), ["toxic", "fine", "other"])
    result = succeed("study", "add", "tiny", "--model", "toxic", "--train")
    assert "its head is not of the study's labels; a new one is trained" in result.err
    (trial,) = outside_of(opened)
    assert trial.values[0] > 0.8


def test_an_interrupted_one_is_tried_again_and_so_is_a_failed_one(
    opened: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_student(Path("classifier"), LABELS)
    load, calls = outside.load, iter(["check", "interrupt", "check", "fail"])

    def interrupted(*arguments: Any) -> Any:
        match next(calls, None):
            case "interrupt":
                raise KeyboardInterrupt("Ctrl-C")
            case "fail":
                raise MemoryError("no room")
        return load(*arguments)

    monkeypatch.setattr(outside, "load", interrupted)
    add = ("study", "add", "tiny", "--model", "classifier")
    assert run(*add).code != 0
    assert [trial.state for trial in outside_of(opened)] == [TrialState.FAIL]
    failed = run(*add)
    assert failed.code == 1
    assert "could not be evaluated: MemoryError: no room" in failed.err
    again = outside_of(opened)[-1]
    assert again.user_attrs[attributes.RETRY_OF] == outside_of(opened)[0].number
    succeed(*add)
    assert [trial.state for trial in outside_of(opened)] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert "nothing was done" in succeed(*add).err


def test_one_that_a_killed_process_left_is_gone_on_with(opened: OpenStudy) -> None:
    write_student(Path("classifier"), LABELS)
    recipe = {
        "outside": str(Path("classifier").absolute()),
        "revision": None,
        "new_head": False,
        "content": nasopt_hash("classifier"),
        "finetune_epochs": 0,
        "distill_epochs": 0,
        "precision": "fp32",
    }
    marks = {"control": "classifier", "control_recipe": recipe}
    opened.study.enqueue_trial({}, user_attrs=marks)
    opened.study.ask().set_user_attr(attributes.WORKER, {"host": host(), "pid": 2**22 + 1, "started": 1.0})
    succeed("study", "add", "tiny", "--model", "classifier")
    killed, again = outside_of(opened)
    assert (killed.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.user_attrs[attributes.RETRY_OF] == killed.number


def nasopt_hash(folder: str) -> str | None:
    from nasopt.tasks.datasets import content_hash

    return content_hash(folder)


def test_a_model_that_changes_after_it_was_queued_fails_its_trial(opened: OpenStudy) -> None:
    write_student(Path("classifier"), LABELS)
    recipe = {"outside": str(Path("classifier").absolute()), "revision": None, "new_head": False, "content": "another"}
    marks = {"control": "c", "control_recipe": {**recipe, "finetune_epochs": 0, "distill_epochs": 0}}
    opened.study.enqueue_trial({}, user_attrs=marks)
    opened.study.optimize(Objective(opened.config, opened.artifacts), n_trials=1)
    assert "it has changed since it was added" in (queries.failure_of(outside_of(opened)[0]) or "")


@pytest.mark.usefixtures("study_folder")
def test_an_onnx_study_makes_an_onnx_file_of_it(write_study: WriteStudy) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = write_study(**{LATENCY: f'{LATENCY}runtime = "onnxruntime"\n', f"epochs = {EPOCHS}": "epochs = 1"})
    succeed("study", "create", path)
    write_student(Path("classifier"), LABELS)
    succeed("study", "add", "tiny", "--model", "classifier")  # which measures the base model first
    base, trial = reopened().study.get_trials()
    assert queries.is_base(base)
    assert trial.user_attrs["memory"]["form"] == "onnx"
    assert trial.user_attrs["latency"]["latency_ms"]["runtime"] == "onnxruntime"
    assert trial.values[2] < base.values[2]
