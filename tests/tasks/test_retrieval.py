"""Retrieval with a tiny BERT: metrics beside vectors straight from transformers, prompts of both sides, errors."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS, write_collection
from outside_models import write_student
from pydantic import ValidationError
from transformers import AutoModel, AutoTokenizer

from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.models.sentence_modules import SentenceModules, sentence_files
from nasopt.models.vocabulary import cut_tokenizer
from nasopt.tasks.opening import task_class
from nasopt.tasks.retrieval import RetrievalSplit, SentenceRetrieval

CPU = torch.device("cpu")
PROMPTS = {"query": "was ", "passage": "it "}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages of words, and queries of some words of one; `pairs/` to train on, `beir/` to find passages in."""
    folder, generator = tmp_path_factory.mktemp("data"), random.Random(0)
    passages = {
        f"p{number}": (generator.choice([None, "", "the film"]), " ".join(generator.choices([*WORDS, *FILLERS], k=8)))
        for number in range(130)
    }
    queries, judged = {}, []
    for number in range(30):
        best, other = generator.sample(list(passages), k=2)
        queries[f"q{number}"] = " ".join(generator.sample(passages[best][1].split(), k=3))
        judged += [(f"q{number}", best, 2), (f"q{number}", other, number % 2)]
    split = {"dev": judged[:40], "test": judged[40:]}
    write_collection(folder / "beir", passages, queries, split)
    (folder / "pairs").mkdir()
    rows = [f"{' '.join(generator.choices(list(WORDS), k=2))},{' '.join(generator.choices(FILLERS, k=4))}"] * 8
    (folder / "pairs" / "train.csv").write_text("\n".join(["question,passage", *rows]) + "\n")
    return folder


def task_config(model: Path, data: Path, metric: str = "ndcg@10", **settings: Any) -> TaskConfig:
    dataset = {
        "path": str(data / "pairs"),
        "text": ["question", "passage"],
        "splits": {"validation": "dev", "test": "test"},
        "max_samples": settings.pop("max_samples", {}),
    }
    table: dict[str, Any] = {"type": "sentence-similarity", "model": str(model), "metric": metric, "dataset": dataset}
    table["similarity"] = settings.pop("similarity", {})
    return TaskConfig.model_validate({**table, "retrieval": {"path": str(data / "beir"), **settings}})


def open_task(model: Path, data: Path, metric: str = "ndcg@10", **settings: Any) -> SentenceRetrieval:
    config = task_config(model, data, metric, **settings)
    assert task_class(config) is SentenceRetrieval
    return SentenceRetrieval(config)


def listed(encoder: Path, folder: Path, **settings: Any) -> Path:
    """An encoder in a folder of sentence-transformers with all its files."""
    shutil.copytree(encoder, folder)
    modules = SentenceModules(
        **{"pooling": "mean", "normalize": True, "max_length": 24, "prompts": PROMPTS, **settings}
    )
    for path, text in sentence_files(modules, 64).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return folder


def vectors_one_by_one(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors straight from transformers."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
    vectors = torch.stack(means).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(model: Path, folder: Path, split: str, before_queries: str, before_passages: str) -> dict[str, list[float]]:
    """Both metrics of each query, the way they are defined, from a whole table of cosines."""
    passages, queries = (
        {item["_id"]: f"{item.get('title') or ''} {item['text']}".strip() for item in map(json.loads, lines)}
        for lines in ((folder / f"{name}.jsonl").read_text().splitlines() for name in ("corpus", "queries"))
    )
    rows = [line.split("\t") for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]]
    ids = list(passages)
    judged = list(dict.fromkeys(row[0] for row in rows))
    vectors = vectors_one_by_one(
        model, [*(before_passages + passages[key] for key in ids), *(before_queries + queries[key] for key in judged)]
    )
    found: dict[str, list[float]] = {"ndcg@10": [], "recall@100": []}
    for query, vector in zip(judged, vectors[len(ids) :], strict=True):
        order = [ids[row] for row in np.argsort(-(vectors[: len(ids)] @ vector))]
        relevance = {passage: int(score) for key, passage, score in rows if key == query and int(score) > 0}
        gain = sum(relevance.get(key, 0) / np.log2(place + 2) for place, key in enumerate(order[:10]))
        best = sum(score / np.log2(place + 2) for place, score in enumerate(sorted(relevance.values())[::-1][:10]))
        found["ndcg@10"].append(gain / best)
        found["recall@100"].append(len(set(order[:100]) & set(relevance)) / len(relevance))
    return found


@pytest.mark.parametrize(("metric", "split"), [("ndcg@10", "validation"), ("recall@100", "test")])
def test_quality_is_the_mean_over_the_queries(
    tiny_bert: Path, data: Path, tmp_path: Path, metric: str, split: str
) -> None:
    task = open_task(tiny_bert, data, metric, query_prefix="was ", passage_prefix="it ")
    expected = by_hand(tiny_bert, data / "beir", {"validation": "dev"}.get(split, split), "was ", "it ")

    evaluation = task.evaluate(task.load_model(), task.encode(tmp_path)[split], CPU)

    assert 0 < np.mean(expected[metric]) < 1
    assert evaluation.quality == pytest.approx(np.mean(expected[metric]), abs=1e-3)
    assert evaluation.details == {name: pytest.approx(np.mean(each), abs=1e-3) for name, each in expected.items()}
    assert evaluation.replicates is not None
    assert evaluation.replicates[0] == evaluation.quality
    spread = np.std(expected[metric]) / np.sqrt(len(expected[metric]))
    assert evaluation.replicates[1:].std() == pytest.approx(spread, rel=0.2)  # resamples draw queries


def test_a_passage_with_the_query_s_id_is_taken_for_the_query(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    passages = {"x": ("", "good film"), "y": ("", "sad"), "z": ("", "the plot was bad")}
    write_collection(tmp_path / "beir", passages, {"x": "good film"}, {"dev": [("x", "y", 1)], "test": [("x", "x", 1)]})
    shutil.copytree(data / "pairs", tmp_path / "pairs")
    task = open_task(tiny_bert, tmp_path)
    splits, model = task.encode(tmp_path), task.load_model()
    # The passage that is the query itself would come first, and the other two have the places 2 and 3.
    assert task.evaluate(model, splits["validation"], CPU).quality in (1, pytest.approx(1 / np.log2(3)))
    assert task.evaluate(model, splits["test"], CPU).quality == 1


def test_examples_are_queries_with_their_best_passage(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data, query_prefix="was ", max_samples={"validation": 5})
    splits = task.encode(tmp_path)
    assert {role: len(split) for role, split in splits.items()} == {"train": 8, "validation": 5, "test": 10}
    assert (task.count("validation"), task.count("train")) == (5, 8)
    found = splits["validation"]
    assert isinstance(found, RetrievalSplit)
    assert len(found.passages) == 130
    assert len(found.judgements) == 5
    tokens = found.second.batch(torch.tensor([0])).inputs["input_ids"][0]
    (best,) = (row for row, score in found.judgements.relevance[0].items() if score == 2)
    assert torch.equal(tokens, found.passages.batch(torch.tensor([best])).inputs["input_ids"][0])
    assert all(text.startswith("was ") for text in task.texts_read("train")[:8])
    assert not any(text.startswith("was ") for text in task.texts_read("train")[8:])


def test_other_judgements_are_other_data(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    file = tmp_path / "data" / "beir" / "qrels" / "dev.tsv"
    before = open_task(tiny_bert, data).encode(tmp_path)
    file.write_text(file.read_text().replace("\t2\n", "\t3\n", 1))
    after = open_task(tiny_bert, tmp_path / "data").encode(tmp_path)
    assert before["validation"].fingerprint != after["validation"].fingerprint
    assert before["train"].fingerprint == after["train"].fingerprint


@pytest.mark.parametrize(
    ("files", "settings", "expected"),
    [
        ({}, {}, ("was ", "it ")),
        ({"prompts": {**PROMPTS, "document": "the "}}, {}, ("was ", "the ")),
        ({"prompts": {"query": "was "}}, {}, ("was ", "")),
        ({"prompts": {"query": "was ", "other": "the "}, "prompt": "the "}, {}, ("was ", "the ")),
        ({"prompts": {"query": "", "document": ""}}, {}, ("", "")),
        ({}, {"query_prefix": ""}, ("", "it ")),
        ({}, {"similarity": {"prefix": "a "}}, ("a ", "a ")),
        ({}, {"similarity": {"prefix": "a "}, "passage_prefix": "of "}, ("a ", "of ")),
    ],
)
def test_both_sides_have_prefixes(
    tiny_bert: Path, data: Path, tmp_path: Path, files: Any, settings: Any, expected: tuple[str, str]
) -> None:
    config = task_config(listed(tiny_bert, tmp_path / "model", **files), data, **settings)
    task = SentenceRetrieval(config)
    assert task.prefixes == expected
    assert task.settled.retrieval is not None
    assert (task.settled.retrieval.query_prefix, task.settled.retrieval.passage_prefix) == expected
    again = SentenceRetrieval(task.settled)
    assert (again.settled, again.prefixes) == (task.settled, expected)
    assert config.answered_by(task.settled) == task.settled


def test_what_was_read_and_what_contradicts_it_is_said(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    model = listed(tiny_bert, tmp_path / "model")
    said = open_task(model, data).remarks
    assert "as the model's own files say, queries begin with 'was ' and passages begin with 'it '" in said
    assert said[-3:] == (
        "there are 130 passages",
        "qrels/dev.tsv has 20 queries with a relevant passage",
        "qrels/test.tsv has 10 queries with a relevant passage",
    )
    assert not [sentence for sentence in said if "uses none" in sentence]
    said = open_task(model, data, query_prefix="the ").remarks
    assert "queries begin with 'the ', though the model's own files say 'was '" in said


def test_queries_without_a_relevant_passage_are_counted(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    file = tmp_path / "data" / "beir" / "qrels" / "dev.tsv"
    file.write_text(file.read_text().replace("\t2\n", "\t0\n", 1))
    said = open_task(tiny_bert, tmp_path / "data").remarks
    assert "qrels/dev.tsv has 19 queries with a relevant passage, and 1 without one, which do not count" in said


def test_another_tokenizer_reads_queries_and_passages(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    """A candidate with a cut vocabulary has one of its own."""
    task = open_task(tiny_bert, data)
    cut = cut_tokenizer(task.tokenizer, range(len(task.tokenizer) - 4))
    whole, other = task.encode(tmp_path)["validation"], task.encode(tmp_path, cut)["validation"]
    assert isinstance(whole, RetrievalSplit)
    assert isinstance(other, RetrievalSplit)
    for mine, its in ((whole.first, other.first), (whole.passages, other.passages)):
        assert int(its.columns["input_ids"].max()) < int(mine.columns["input_ids"].max())


def test_a_model_from_outside_has_its_own_prefixes(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    study = open_task(tiny_bert, data, query_prefix="the ", passage_prefix="of ")
    student = write_student(tmp_path / "student")
    assert study.for_model(OutsideModel(str(student))).prefixes == ("the ", "of ")
    own = study.for_model(OutsideModel(str(listed(student, tmp_path / "own"))))
    assert own.prefixes == ("was ", "it ")
    assert study.prefixes == ("the ", "of ")
    assert own.evaluate(own.load_model(), own.encode(tmp_path)["validation"], CPU).quality > 0


def test_what_it_tells(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data, query_prefix="was ", passage_prefix='"it" ')
    assert (task.evaluates_test, task.judged_on) == (True, "the queries of qrels/dev.tsv")
    assert r'tokenizer(["was a query", "\"it\" a passage"], padding' in task.usage
    assert 'encode_query(["a query"])' in task.other_use("fp32", needs_code=False)
    assert "trust_remote_code=True" in task.other_use("bf16", needs_code=True)


def test_prompts_that_are_not_pooled_are_refused(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    model = listed(tiny_bert, tmp_path / "model", pools_prompt=False)
    with pytest.raises(UnsupportedModelError, match=r'set query_prefix = "" and passage_prefix = ""'):
        open_task(model, data)
    assert open_task(model, data, query_prefix="", passage_prefix="").prefixes == ("", "")


def test_a_model_without_numbers_has_no_quality(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data)
    model = task.load_model()
    torch.nn.init.constant_(model.get_input_embeddings().weight, float("nan"))
    assert np.isnan(task.evaluate(model, task.encode(tmp_path)["validation"], CPU).quality)


def test_a_missing_split_is_told_at_once(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "beir" / "qrels" / "test.tsv").unlink()
    with pytest.raises(DatasetError, match=r"there is no file .*test\.tsv; splits that have one: dev"):
        open_task(tiny_bert, tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"retrieval": None}, r"the metric 'ndcg@10' needs \[task\.retrieval\]"),
        ({"metric": "retrieval"}, r"\[task\.retrieval\] is for ndcg@10 and recall@100, not for 'retrieval'"),
        ({"dataset": {"path": "d", "text": ["text", "text"]}}, "needs two columns in dataset.text: query and passage"),
        ({"metric": "mrr@10"}, "'mrr@10' is not one of sentence-similarity"),
        ({"type": "text-classification", "metric": "accuracy"}, "retrieval.* is for the type sentence-similarity"),
        ({"type": "text-classification"}, "the metric 'ndcg@10' is for kind = \"reranking\""),
    ],
)
def test_metrics_and_the_table_belong_together(data: Path, changes: dict[str, Any], reason: str) -> None:
    table = json.loads(task_config(Path("m"), data).model_dump_json(exclude={"similarity"}))
    with pytest.raises(ValidationError, match=reason):
        TaskConfig.model_validate({**table, **changes})
