"""What a study needs before its first trial: tokenised data and a trained base model, both made once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nasopt.config.study import StudyConfig
from nasopt.errors import DatasetError

if TYPE_CHECKING:
    from nasopt.tasks.base import Task


def open_task(config: StudyConfig, folder: Path | None = None) -> Task:
    """The task of a study: opens and checks data and model, loads no weights.

    Args:
        config: the study's configuration.
        folder: the study's artifact folder, where a tokenizer that was trained for it lies; None before there is one.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """
    task = _make_task(config, folder)
    longest = task.max_positions
    for latency in config.latency:
        if latency.sequence_length > longest:
            raise DatasetError(
                f"latency.sequence_length: {latency.sequence_length}, but the model reads at most {longest} tokens"
            )
    return task


def _make_task(config: StudyConfig, folder: Path | None) -> Task:
    task = config.task
    if task.type == "sentence-similarity":
        from nasopt.tasks.similarity import SentenceSimilarity

        return SentenceSimilarity(task)
    if task.type == "translation":
        from nasopt.tasks.translation import Translation

        return Translation(task, folder)
    from nasopt.tasks.classification import TextClassification

    return TextClassification(task)
