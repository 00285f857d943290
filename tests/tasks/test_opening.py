"""From the type of a task to its class, and what the classes declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from nasopt.config.task import TRAITS, TaskConfig, TaskType
from nasopt.tasks.base import EmbeddingTask, LabelledTask, Task
from nasopt.tasks.opening import CLASSES, task_class
from nasopt.tasks.similarity import SentenceSimilarity


@pytest.mark.parametrize("kind", get_args(TaskType))
def test_every_type_has_a_class_and_traits(kind: TaskType) -> None:
    assert issubclass(task_class(TaskConfig.model_construct(type=kind)), Task)
    assert TRAITS[kind].metrics
    assert list(CLASSES) == list(TRAITS)


def test_classes_declare_what_they_can_do() -> None:
    kinds = {kind: task_class(TaskConfig.model_construct(type=kind)) for kind in get_args(TaskType)}
    assert {kind for kind, found in kinds.items() if found.onnx_obstacle} == {"translation"}
    assert {kind for kind, found in kinds.items() if not found.has_logits} == {"sentence-similarity"}
    assert {kind for kind, found in kinds.items() if issubclass(found, LabelledTask)} == {"text-classification"}
    assert {kind for kind, found in kinds.items() if issubclass(found, EmbeddingTask)} == {"sentence-similarity"}
    assert {kind for kind, traits in TRAITS.items() if not traits.estimated_latency} == {"translation"}


def similarity(data: Path, model: Path, **settings: Any) -> SentenceSimilarity:
    dataset = {"path": str(data), "text": ["text", "text"], "splits": {"test": "test"}}
    document = {"type": "sentence-similarity", "model": str(model), "metric": "retrieval", "dataset": dataset}
    return SentenceSimilarity(TaskConfig.model_validate({**document, "similarity": settings}))


def test_a_sentence_encoder_tells_how_it_is_used(tiny_bert: Path, sentiment: Path) -> None:
    task = similarity(sentiment, tiny_bert, prefix="query: ", pooling="cls", normalize=False)
    assert (task.embedding, task.labelled) == (task, None)
    assert (task.evaluates_test, task.judged_on) == (True, "the validation split")
    assert 'tokenizer(["query: a text"]' in task.usage
    assert task.usage.endswith("vectors = hidden[:, 0]\n")
    assert similarity(sentiment, tiny_bert).usage.endswith("vectors = vectors / vectors.norm(dim=-1, keepdim=True)\n")
