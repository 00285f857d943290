"""Finds the class of a type of task, and opens a study's task."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nasopt.config.study import StudyConfig
from nasopt.config.task import TaskConfig, TaskType
from nasopt.errors import DatasetError

if TYPE_CHECKING:
    from nasopt.tasks.base import Task


CLASSES: Mapping[TaskType, tuple[str, str]] = {
    "text-classification": ("nasopt.tasks.classification", "TextClassification"),
    "token-classification": ("nasopt.tasks.token_classification", "TokenClassification"),
    "question-answering": ("nasopt.tasks.question_answering", "QuestionAnswering"),
    "sentence-similarity": ("nasopt.tasks.similarity", "SentenceSimilarity"),
    "translation": ("nasopt.tasks.translation", "Translation"),
}
RERANKING = ("nasopt.tasks.reranking", "Reranking")
MULTI_LABEL = ("nasopt.tasks.multi_label", "MultiLabelClassification")
RETRIEVAL = ("nasopt.tasks.retrieval", "SentenceRetrieval")
"""Module and name of each task's class, which is imported only when asked for, because it imports torch."""


def open_task(config: StudyConfig, folder: Path | None = None) -> Task:
    """Opens the task of a study: checks its data and model, and loads no weights.

    Args:
        config: the study's configuration.
        folder: the study's artifact folder, where a tokenizer that was trained for it lies; None before there is one.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """
    task = task_class(config.task)(config.task, folder)
    check_lengths(config, task)
    return task


def check_lengths(config: StudyConfig, task: Task) -> None:
    """Makes sure that a task's model reads the texts on which latencies are measured.

    Raises:
        DatasetError: they are too long.
    """
    longest = task.max_positions
    for latency in config.latency:
        if latency.sequence_length > longest:
            raise DatasetError(
                f"latency.sequence_length: {latency.sequence_length}, but the model reads at most {longest} tokens"
            )


def task_class(config: TaskConfig) -> type[Task]:
    """The class of a study's task, with all that it declares."""
    special = {MULTI_LABEL: config.is_multi_label, RERANKING: config.is_reranking, RETRIEVAL: config.is_retrieval}
    module, name = next((its for its, is_wanted in special.items() if is_wanted), CLASSES[config.type])
    found: type[Task] = getattr(import_module(module), name)
    return found
