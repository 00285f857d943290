"""Vectors that are cut to their first entries: judged from one encoding, as if each had been encoded so."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS, write_collection
from outside_models import write_student
from pydantic import ValidationError
from scipy import stats
from transformers import AutoModel, AutoTokenizer

from nasopt.architecture.outside import OutsideModel
from nasopt.config.embedding import SimilarityConfig
from nasopt.config.task import TaskConfig
from nasopt.errors import UnsupportedModelError
from nasopt.tasks.dimensions import qualities
from nasopt.tasks.opening import task_class
from nasopt.tasks.similarity import SentenceSimilarity

CPU = torch.device("cpu")
DIMENSIONS = [8, 32]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with scores, a collection of passages, and files of three tasks of encodechka."""
    folder, generator = tmp_path_factory.mktemp("data"), random.Random(0)
    rows = [
        (
            " ".join(generator.choices(list(WORDS), k=3)),
            " ".join(generator.choices(list(FILLERS), k=3)),
            f"{generator.random():.3f}",
        )
        for _ in range(40)
    ]
    (folder / "pairs").mkdir()
    for split in ("train", "validation"):
        (folder / "pairs" / f"{split}.csv").write_text("\n".join(map(",".join, [("first", "second", "score"), *rows])))
    (folder / "stsb_dev.csv").write_text(
        "\n".join(map(",".join, [("sentence1", "sentence2", "similarity_score"), *rows]))
    )
    classes = [(first, "1" if float(score) > 0.5 else "0") for first, _, score in rows]
    for part in ("train", "test"):
        (folder / f"toxic_{part}.csv").write_text("\n".join(map(",".join, [("text", "toxic"), *classes])))
    texts = [f"{first} {second}" for first, second, _ in rows]
    labels = [[["A", len(text.split()[0]) + 1, len(text) // 2]] for text in texts]
    (folder / "factru.json").write_text(str({"texts": texts, "labels": labels}).replace("'", '"'))
    passages = {f"p{row}": ("", second) for row, (_, second, _) in enumerate(rows)}
    queries = {f"q{row}": first for row, (first, _, _) in enumerate(rows[:12])}
    judged = [(f"q{row}", f"p{place}", 1) for row in range(12) for place in range(row, 40, 7)]
    write_collection(folder / "beir", passages, queries, {"validation": judged})
    return folder


def open_task(model: Path, data: Path, metric: str, **settings: Any) -> SentenceSimilarity:
    dataset = {"path": str(data / "pairs"), "text": ["first", "second"], "label": "score"}
    similarity = {"dimensions": DIMENSIONS, **settings}
    if metric == "encodechka":
        similarity |= {"encodechka": str(data), "encodechka_tasks": ["STS", "TI", "NE1"]}
    tables = {"retrieval": {"path": str(data / "beir")}} if metric == "ndcg@10" else {}
    config = {"type": "sentence-similarity", "model": str(model), "metric": metric, "dataset": dataset, **tables}
    checked = TaskConfig.model_validate({**config, "max_length": 16, "similarity": similarity})
    task = task_class(checked)(checked)
    assert isinstance(task, SentenceSimilarity)
    return task


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("metric", ["spearmanr", "retrieval", "encodechka", "ndcg@10"])
def test_cut_vectors_are_judged_as_if_they_had_been_encoded_so(
    tiny_bert: Path, data: Path, tmp_path: Path, metric: str, normalize: bool
) -> None:
    task = open_task(tiny_bert, data, metric, normalize=normalize)
    model, split = task.load_model(), task.encode(tmp_path)["validation"]
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))

    evaluation = task.evaluate(model, split, CPU)

    cut, made = {each: task.cut_to(each).evaluate(model, split, CPU) for each in DIMENSIONS}, len(passes)
    assert list(evaluation.by_dimension) == [32, 8]
    assert evaluation.by_dimension == {each: pytest.approx(its.quality, abs=1e-6) for each, its in cut.items()}
    assert len({evaluation.quality, *evaluation.by_dimension.values()}) == 3
    assert cut[32].by_dimension == {8: pytest.approx(evaluation.by_dimension[8], abs=1e-6)}
    passes.clear()
    plain = open_task(tiny_bert, data, metric, normalize=normalize, dimensions=()).evaluate(model, split, CPU)
    assert (plain.quality, dict(plain.by_dimension)) == (evaluation.quality, {})
    assert 3 * len(passes) == made, "one encoding serves all sizes"


def test_cut_vectors_are_first_entries(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data, "spearmanr")
    model, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    rows = [line.split(",") for line in (data / "pairs" / "validation.csv").read_text().splitlines()[1:]]

    def vectors(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
        cut = torch.stack([its.mean(dim=0)[:8] for its in states]).numpy()
        return cut / np.linalg.norm(cut, axis=1, keepdims=True)

    first, second, scores = zip(*rows, strict=True)
    cosines = (vectors(list(first)) * vectors(list(second))).sum(axis=1)
    found = task.evaluate(task.load_model(), task.encode(tmp_path)["validation"], CPU).by_dimension[8]
    assert found == pytest.approx(stats.spearmanr(cosines, list(map(float, scores))).statistic, abs=1e-3)


def test_a_size_that_cuts_nothing_off_is_refused(tiny_bert: Path, data: Path) -> None:
    message = r"task\.similarity\.dimensions: 65, 64 cut nothing off the model's vectors of 64 entries"
    with pytest.raises(UnsupportedModelError, match=message):
        open_task(tiny_bert, data, "retrieval", dimensions=[65, 8, 64])


@pytest.mark.parametrize("dimensions", [[0], [8, 8], [-1, 2]])
def test_sizes_are_positive_and_differ(dimensions: list[int]) -> None:
    with pytest.raises(ValidationError, match="numbers of at least 1, each of them once"):
        SimilarityConfig.model_validate({"dimensions": dimensions})


def test_a_smaller_model_from_outside_is_judged_with_the_sizes_that_it_has(
    tiny_bert: Path, data: Path, tmp_path: Path
) -> None:
    write_student(tmp_path / "student", ["negative", "positive"])
    task = open_task(tiny_bert, data, "retrieval", dimensions=[63, 8])
    its = task.for_model(OutsideModel(str(tmp_path / "student")))
    width = its.shape.hidden_size
    assert 8 < width < 63
    found = its.evaluate(its.load_model(), its.encode(tmp_path)["validation"], CPU)
    assert list(found.by_dimension) == [8]


def test_qualities_that_are_not_finite_are_left_out() -> None:
    assert qualities([2, 4, 16], 8, {2: float("nan"), 4: 0.5}.__getitem__) == {4: 0.5}
