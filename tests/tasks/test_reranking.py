"""Rerankers on queries and passages of random words: data, quality, intervals, errors, from the file to the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import read, run
from conftest import write_rankings
from outside_models import write_student
from sklearn.metrics import ndcg_score
from study_text import study_text
from torch.nn import functional

from nasopt.architecture.outside import OutsideModel
from nasopt.config.study import TrainingConfig
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.tasks.reranking import Reranking
from nasopt.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rankings(tmp_path_factory.mktemp("rankings"), {"train": 60, "validation": 20})


def config(model: Path, data: Path, dataset: dict[str, Any] | None = None, **settings: Any) -> TaskConfig:
    columns = {"path": str(data), "text": ["query", "passage"], **(dataset or {})}
    task = {"model": str(model), "kind": "reranking", "metric": "ndcg@10", "max_length": 24, "new_head": True}
    return TaskConfig.model_validate({**task, "dataset": columns, **settings})


def write_rows(folder: Path, *rows: str) -> Path:
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(["id,query,passage,label", *rows]) + "\n")
    return folder


def logits_of(task: Reranking, model: torch.nn.Module, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    split = task.encode(folder)["validation"]
    batch = split.batch(torch.arange(len(split)))
    with torch.inference_mode():
        return task.run(model.eval(), batch)[0].logits[:, 0], batch.labels


@pytest.mark.parametrize("dataset", [{}, {"query": "id"}])
def test_quality_is_the_mean_over_queries(
    tiny_bert: Path, rankings: Path, tmp_path: Path, dataset: dict[str, Any]
) -> None:
    task = Reranking(config(tiny_bert, rankings, dataset))
    model = task.load_model()
    logits, labels = logits_of(task, model, tmp_path)
    evaluation = task.evaluate(model, task.encode(tmp_path)["validation"], CPU)
    queries = labels[:, 1].numpy()
    each = [
        ndcg_score([labels[queries == query, 0].numpy()], [logits[queries == query].numpy()], k=10)
        for query in np.unique(queries)
    ]
    # Two queries may have the same words: they are one, unless a column tells them apart.
    assert (len(each) == 20) is bool(dataset)
    assert evaluation.quality == pytest.approx(np.mean(each), abs=1e-6)
    assert evaluation.replicates is not None
    spread = np.std(each) / np.sqrt(len(each))
    assert evaluation.replicates[1:].std() == pytest.approx(spread, rel=0.2)  # queries are drawn, not texts


def test_what_was_read_is_said(tiny_bert: Path, tmp_path: Path) -> None:
    write_rows(tmp_path, "1,good,film,0", "1,good,good,4", "2,sad,film,0", "2,sad,plot,0")
    task = Reranking(config(tiny_bert, tmp_path))
    assert task.remarks == (
        "the train split has 4 texts of 2 queries, 1 of them without a relevant text",
        "the validation split has 4 texts of 2 queries, 1 of them without a relevant text",
        "queries without a relevant text do not count in quality",
        "relevances are divided by 4, the highest one, for the loss",
    )


def test_the_loss_is_that_of_cross_encoders(tiny_bert: Path, tmp_path: Path) -> None:
    write_rows(tmp_path, "1,good,film,1", "1,good,good,4", "2,sad,film,0", "2,sad,plot,2")
    task = Reranking(config(tiny_bert, tmp_path))
    model = task.load_model()
    logits, labels = logits_of(task, model, tmp_path)
    split = task.encode(tmp_path)["validation"]
    expected = functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.25, 1, 0, 0.5]))
    assert labels[:, 0].tolist() == [1, 4, 0, 2]
    assert task.training_loss(model, split.batch(torch.arange(4))).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.integration
def test_training_teaches_the_order(tiny_bert: Path, rankings: Path, tmp_path: Path) -> None:
    task = Reranking(config(tiny_bert, rankings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the head is drawn
        model = task.load_model()
    splits = task.encode(tmp_path)
    before = task.evaluate(model, splits["train"], CPU).quality
    settings = TrainingConfig(epochs=12, batch_size=32, learning_rate=2e-3)
    train(model, splits["train"], task.training_loss, settings, device=CPU, seed=0)
    assert task.evaluate(model, splits["train"], CPU).quality > before + 0.1


@pytest.mark.parametrize(
    ("rows", "dataset", "reason"),
    [
        (("1,good,film,-1", "1,good,plot,1"), {}, r"1 negative labels in the column `label` .*row 0"),
        (("1,good,film,0", "2,sad,plot,1"), {}, r"no query of the validation split has texts of different relevance"),
        (("1,good,film,0", "2,good,plot,1"), {"query": "id"}, r"no query .*task\.dataset\.query"),
        (("1,good,film,0", "1,good,plot,1"), {"query": "number"}, r"no column number"),
        (("1,good,film,much", "1,good,plot,1"), {}, r"unreadable"),
        (("1,good,film,1", "1,good,plot,1"), {}, r"all 2 labels .* are 1"),
    ],
)
def test_bad_data_are_told(
    tiny_bert: Path, tmp_path: Path, rows: tuple[str, ...], dataset: dict[str, Any], reason: str
) -> None:
    write_rows(tmp_path, *rows)
    with pytest.raises(DatasetError, match=reason) as caught:
        Reranking(config(tiny_bert, tmp_path, dataset))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"metric": "accuracy"}, "'accuracy' is not one of reranking: ndcg@10, mrr@10"),
        ({"kind": None}, "the metric 'ndcg@10' is for kind = \"reranking\""),
        ({"kind": "regression", "metric": "pearsonr", "dataset": {"query": "id"}}, "dataset.query is for kind"),
        ({"dataset": {"text": ["query"]}}, "needs two columns in dataset.text"),
    ],
)
def test_settings_that_do_not_fit_are_told(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        config(tmp_path, tmp_path, **settings)


def test_a_head_of_several_outputs_is_refused(tiny_bert: Path, rankings: Path, tmp_path: Path) -> None:
    student = write_student(tmp_path / "student", ["no", "yes"])
    with pytest.raises(UnsupportedModelError, match=r"has 2 outputs, and a reranker has one; set task\.new_head"):
        Reranking(config(student, rankings, new_head=False))
    study = Reranking(config(tiny_bert, rankings))
    with pytest.raises(UnsupportedModelError, match=r"has 2 outputs, and a reranker has one; pass --train"):
        study.for_model(OutsideModel(str(student)))
    one = write_student(tmp_path / "one", ["score"])
    assert study.for_model(OutsideModel(str(one))).load_model().config.num_labels == 1


TASK = 'kind = "reranking"\nmetric = "ndcg@10"\nmax_length = 24'


@pytest.mark.slow
@pytest.mark.integration
def test_from_the_study_file_to_the_cross_encoder(study_folder: Path, tiny_bert: Path) -> None:
    write_rankings(study_folder / "rankings", {"train": 40, "validation": 20, "test": 20})
    columns = 'text = ["query", "passage"]'
    file = study_folder / "tiny.toml"
    file.write_text(study_text(tiny_bert, study_folder / "rankings", "", method="fisher", task=TASK, columns=columns))
    created = run("study", "create", file)
    assert created.code == 0, created.err
    assert "the train split has 240 texts of " in created.out + created.err
    assert run("study", "optimize", "tiny", "--n-trials", 3).code == 0
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4, trials
    assert run("study", "controls", "tiny", "--random-masks", 1).code == 0
    assert all("comparison" in item for item in read("study", "pareto", "tiny"))
    for form in ("hf", "onnx"):
        found = run(
            "study", "export", "tiny", "--best", "memory_mb<1000", "--to", study_folder / form, "--format", form
        )
        assert found.code == 0, found.err
    card = (study_folder / "hf" / "README.md").read_text()
    assert "| ndcg@10 on the test split |" in card
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    for names, block in ((ours, 1), (theirs, 2)):
        exec(card.split("```python\n")[block].split("```")[0].replace("this folder", str(study_folder / "hf")), names)
    np.testing.assert_allclose(theirs["scores"], ours["scores"].sigmoid().detach().numpy(), atol=1e-2)
