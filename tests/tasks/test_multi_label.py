"""Several labels for each text: the ways in which they are written, metrics against scikit-learn, weights, heads."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import read, run
from conftest import write_label_sets
from outside_models import write_student
from sklearn import metrics
from study_text import study_text
from transformers import pipeline

from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, HeadMismatchError, UnsupportedModelError
from nasopt.numerics.resampling import resample_weights
from nasopt.tasks.multi_label import MultiLabelClassification
from nasopt.tasks.multi_label_scores import multi_label_scores

KIND = "multi_label_classification"
COLUMNS = "text,good,bad\na great film,1,0\nthe plot,0,0\nbad,false,true\n"


def open_task(model: Path, data: Path, **changes: Any) -> MultiLabelClassification:
    dataset = {"path": str(data), "text": ["text"], **changes.pop("dataset", {})}
    settings = {"kind": KIND, "metric": "f1_macro", **changes}
    return MultiLabelClassification(TaskConfig.model_validate({"model": str(model), "dataset": dataset, **settings}))


def write(folder: Path, train: str, validation: str | None = None, suffix: str = "jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"train.{suffix}").write_text(train)
    (folder / f"validation.{suffix}").write_text(validation or train)
    return folder


def lists(*labels: Any) -> str:
    return "".join(json.dumps({"text": "a film", "label": value}) + "\n" for value in labels)


@pytest.mark.parametrize("metric", ["f1_macro", "f1_micro", "mean_average_precision"])
def test_scores_of_resamples_are_those_of_scikit_learn(metric: str) -> None:
    generator = np.random.default_rng(0)
    targets = (generator.random((40, 3)) < (0.5, 0.2, 0.05)).astype(np.float32)
    logits = generator.normal(size=(40, 3)).round(1).astype(np.float32)  # with ties
    weights = resample_weights(40, 150, 0)
    found = multi_label_scores(weights, targets, logits, metric)

    def expected(drawn: np.ndarray) -> float:
        if metric != "mean_average_precision":
            average = metric.removeprefix("f1_")
            return metrics.f1_score(targets, logits > 0, average=average, sample_weight=drawn, zero_division=0)
        there = [i for i in range(3) if (drawn * targets[:, i]).sum()]
        one = metrics.average_precision_score
        return float(np.mean([one(targets[:, i], logits[:, i], sample_weight=drawn) for i in there]))

    assert found.tolist() == pytest.approx([expected(drawn) for drawn in weights])


def test_lists_and_columns_become_the_same_targets(tiny_bert: Path, tmp_path: Path) -> None:
    columns = write(tmp_path / "columns", COLUMNS, suffix="csv")
    task = open_task(tiny_bert, columns, dataset={"labels": ["good", "bad"]})
    assert task.encode(tmp_path)["train"].labels.tolist() == [[1, 0], [0, 0], [0, 1]]
    task = open_task(tiny_bert, write(tmp_path / "lists", lists(["good"], [], ["bad"])))
    assert task.encode(tmp_path)["train"].labels.tolist() == [[0, 1], [0, 0], [1, 0]]  # by the alphabet
    config = task.load_model().config
    assert (config.problem_type, config.id2label) == (KIND, {0: "bad", 1: "good"})


def test_positive_examples_of_rare_labels_weigh_more(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", lists(["a"], ["a"], ["a"], ["b"]))
    outputs = type("Output", (), {"logits": torch.tensor([[0.0, 0.0]])})
    batch = type("Batch", (), {"labels": torch.tensor([[0.0, 1.0]])})
    plain, balanced = (
        open_task(tiny_bert, data, class_weights=weights).loss_of([outputs], batch) for weights in (None, "balanced")
    )
    # Both labels cost log 2; the positive one counts 3 times, for 3 negatives to each positive.
    assert plain.item() == pytest.approx(np.log(2))
    assert balanced.item() == pytest.approx((1 + 3) / 2 * np.log(2))


def test_imbalance_is_told(tiny_bert: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, write(tmp_path / "d", lists(*[["common"]] * 199, ["common", "rare"])))
    assert "1.00 on average; shares of the training texts: common 100.0 %, rare 0.5 %" in task.remarks[0]
    assert "1 labels are on less than 1 % of the training texts (rare)" in task.remarks[1]


@pytest.mark.parametrize(
    ("train", "validation", "reason"),
    [
        (lists("a", "b"), None, "kind str; several labels are a list for each text"),
        (lists(["a"], ["b"], None), None, "1 missing labels .*row 2.*empty list"),
        (lists(["a"], ["a"]), None, "fewer than two labels"),
        (lists(["a"], ["b"]), lists(["a"], ["c"]), "the validation split has the labels c, which are not among"),
        (lists(["a"], ["b"]), lists([], []), "no text of the validation split has a label"),
        (lists(["a"], ["A "]), None, "differ only in case or blanks"),
    ],
)
def test_labels_that_are_none_are_refused(
    tiny_bert: Path, tmp_path: Path, train: str, validation: str | None, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason) as found:
        open_task(tiny_bert, write(tmp_path / "d", train, validation))
    assert "\n" not in str(found.value)


def test_columns_hold_0_and_1(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", COLUMNS.replace("0,0", "2,0"), suffix="csv")
    with pytest.raises(DatasetError, match=r"1 unreadable labels in the column `good` .*row 1.*0 or 1 is wanted"):
        open_task(tiny_bert, data, dataset={"labels": ["good", "bad"]})


def test_a_trained_head_is_used_by_name(tiny_bert: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, write(tmp_path / "d", lists(["a"], ["b"], ["c"])))
    model = task.load_model()
    model.config.id2label, model.config.label2id = {0: "C", 1: "a", 2: "B"}, {"C": 0, "a": 1, "B": 2}
    model.save_pretrained(tmp_path / "model")
    task.tokenizer.save_pretrained(tmp_path / "model")
    again = open_task(tmp_path / "model", tmp_path / "d")
    assert again.has_head
    assert again.encode(tmp_path)["train"].labels.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    with pytest.raises(DatasetError, match="labels d, which are not among the labels of the model's head"):
        open_task(tmp_path / "model", write(tmp_path / "other", lists(["a"], ["d"])))
    model.config.problem_type = "single_label_classification"
    model.config.save_pretrained(tmp_path / "model")
    with pytest.raises(
        UnsupportedModelError, match=r"problem_type = single_label_classification.*task.new_head = true"
    ):
        open_task(tmp_path / "model", tmp_path / "d")


TASK = f'kind = "{KIND}"\nmetric = "f1_micro"\nmax_length = 16'


def best_constant(file: Path) -> float:
    """The best micro F1 of a model that gives every text the same labels."""
    sets = [set(json.loads(line)["label"]) for line in file.read_text().splitlines()]
    names, given = sorted(set().union(*sets)), sum(map(len, sets))
    found = []
    for size in range(1, len(names) + 1):
        for chosen in combinations(names, size):
            hits = sum(len(labels & set(chosen)) for labels in sets)
            found.append(2 * hits / (given + size * len(sets)))
    return max(found)


@pytest.mark.slow
@pytest.mark.integration
def test_from_the_study_file_to_the_pipeline(study_folder: Path, tiny_bert: Path) -> None:
    data = study_folder / "sets"
    data.mkdir()
    write_label_sets(data, {"train": 240, "validation": 60, "test": 60})
    columns = 'text = ["text"]'
    file = study_folder / "tiny.toml"
    file.write_text(study_text(tiny_bert, data, "", method="fisher", task=TASK, columns=columns))
    created = run("study", "create", file)
    assert created.code == 0, created.err
    assert "shares of the training texts: " in created.out + created.err
    assert run("study", "optimize", "tiny", "--n-trials", 4).code == 0
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 5, trials
    assert trials[0]["values"]["quality"] > best_constant(data / "validation.jsonl")
    assert run("study", "controls", "tiny", "--random-masks", 1).code == 0
    assert all("comparison" in item for item in read("study", "pareto", "tiny"))
    found = run("study", "export", "tiny", "--best", "memory_mb<1000", "--to", study_folder / "out")
    assert found.code == 0, found.err
    card = (study_folder / "out" / "README.md").read_text()
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("this folder", str(study_folder / "out")), names)
    (given,) = pipeline("text-classification", str(study_folder / "out"), top_k=None)(["a text"])
    by_name = dict(zip(names["model"].config.id2label.values(), names["probabilities"], strict=True))
    assert {item["label"]: item["score"] for item in given} == pytest.approx(by_name, abs=1e-4)


def test_a_model_from_outside_has_its_labels_in_the_order_of_the_study(tiny_bert: Path, tmp_path: Path) -> None:
    data = write_label_sets(tmp_path / "data", {"train": 40, "validation": 40})
    study = open_task(tiny_bert, data)
    labels = ["praise", "film", "blame"]
    write_student(tmp_path / "student", labels, problem_type=KIND)
    task = study.for_model(OutsideModel(str(tmp_path / "student")))
    assert task.has_head
    model = task.load_model()
    assert list(model.config.id2label.values()) == ["blame", "film", "praise"]
    own = open_task(tmp_path / "student", data)
    split = task.encode(tmp_path)["validation"]
    batch = split.batch(torch.arange(8))
    with torch.inference_mode():
        found, before = (item.eval()(**batch.inputs).logits for item in (model, own.load_model()))
    torch.testing.assert_close(found, before[:, [2, 1, 0]])
    assert (split.labels == study.encode(tmp_path)["validation"].labels).all()
    single = write_student(tmp_path / "single", labels)
    with pytest.raises(HeadMismatchError, match="several labels each; pass --train"):
        study.for_model(OutsideModel(str(single)))
    assert not study.for_model(OutsideModel(str(single), new_head=True)).has_head
