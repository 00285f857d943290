"""Our tasks keep to the rules of nasopt.testing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    FILLERS,
    WORDS,
    write_collection,
    write_label_sets,
    write_pairs,
    write_questions,
    write_rankings,
    write_tagged_words,
)

from nasopt.config.task import TaskConfig
from nasopt.tasks.base import Task
from nasopt.tasks.classification import TextClassification
from nasopt.tasks.multi_label import MultiLabelClassification
from nasopt.tasks.question_answering import QuestionAnswering
from nasopt.tasks.reranking import Reranking
from nasopt.tasks.retrieval import SentenceRetrieval
from nasopt.tasks.similarity import SentenceSimilarity
from nasopt.tasks.token_classification import TokenClassification
from nasopt.tasks.translation import Translation
from nasopt.testing import TaskTestCase

SIZES = {"train": 60, "validation": 40}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two "languages" of eight words each, translated word by word."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), SIZES, dict(zip(WORDS, FILLERS, strict=False)))


def config(model: Path | str, data: Path, **settings: Any) -> TaskConfig:
    dataset = {"path": str(data), **settings.pop("dataset", {"text": ["first", "second"]})}
    return TaskConfig.model_validate({"model": str(model), "max_length": 16, "dataset": dataset, **settings})


class TestTextClassification(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, sentiment: Path) -> Task:
        return TextClassification(config(tiny_bert, sentiment, dataset={"text": ["text"]}))


class TestRegression(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
        folder, generator = tmp_path_factory.mktemp("numbers"), random.Random(0)
        for split, size in SIZES.items():
            rows = [f"{' '.join(generator.choices(FILLERS, k=4))},{generator.random():.3f}" for _ in range(size)]
            (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        return TextClassification(config(tiny_bert, folder, metric="pearsonr", dataset={"text": ["text"]}))


class TestMultiLabelClassification(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
        data = write_label_sets(tmp_path_factory.mktemp("sets"), SIZES)
        settings = {"kind": "multi_label_classification", "class_weights": "balanced"}
        return MultiLabelClassification(
            config(tiny_bert, data, metric="mean_average_precision", dataset={"text": ["text"]}, **settings)
        )


class TestReranking(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
        data = write_rankings(tmp_path_factory.mktemp("rankings"), {"train": 10, "validation": 12})
        settings = {"kind": "reranking", "metric": "ndcg@10", "new_head": True}
        return Reranking(config(tiny_bert, data, dataset={"text": ["query", "passage"]}, **settings))


class TestTokenClassification(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
        data = write_tagged_words(tmp_path_factory.mktemp("tagged"), SIZES)
        columns = {"text": ["tokens"], "label": "tags"}
        return TokenClassification(config(tiny_bert, data, type="token-classification", metric="f1", dataset=columns))


class TestQuestionAnswering(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
        data = write_questions(tmp_path_factory.mktemp("questions"), SIZES, unanswerable=True)
        settings = {"type": "question-answering", "metric": "f1", "max_length": 24}
        columns = {"text": ["question", "context"], "label": "answers"}
        return QuestionAnswering(config(tiny_bert, data, dataset=columns, **settings))


class TestSentenceSimilarity(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, pairs: Path) -> Task:
        return SentenceSimilarity(config(tiny_bert, pairs, type="sentence-similarity", metric="retrieval"))


class TestSentenceRetrieval(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, tiny_bert: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
        """Each passage is of two words, and relevant for the query that has one of them."""
        passages = {f"{one} {two}": ("", f"{one} {two}") for one in WORDS for two in FILLERS}
        judged = [(two, f"{one} {two}", 1) for one in list(WORDS)[:3] for two in FILLERS]
        queries = {word: word for word in FILLERS}
        folder = write_collection(tmp_path_factory.mktemp("beir") / "words", passages, queries, {"validation": judged})
        settings = {"type": "sentence-similarity", "metric": "ndcg@10", "retrieval": {"path": str(folder)}}
        return SentenceRetrieval(config(tiny_bert, pairs, **settings))


class TestTranslation(TaskTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls, pairs: Path) -> Task:
        sizes = {"encoder_layers": 1, "decoder_layers": 2, "hidden_size": 32, "heads": 2, "ffn_size": 64}
        settings = {"max_new_tokens": 8, "latency_tokens": 3}
        return Translation(
            config(
                "m2m_100",
                pairs,
                type="translation",
                metric="bleu",
                new_model={**sizes, "vocabulary": 100, "dropout": 0.0},
                translation=settings,
            )
        )
