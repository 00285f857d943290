"""Makes the subject of latency sources from a candidate and its context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.architecture.base import CandidateArchitecture
from nasopt.measurement.subject import Subject
from nasopt.training.context import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def subject_of(artifact: PreTrainedModel, architecture: CandidateArchitecture, context: Context) -> Subject:
    """A candidate beside the study's base model, as latency sources see it.

    Args:
        artifact: the candidate in its precision.
        architecture: its architecture.
        context: the study's base model, data and task.
    """
    texts = context.splits["validation"].sides[0]
    return Subject(
        artifact=artifact,
        architecture=architecture,
        shape=context.shape,
        base_model=context.base_model,
        base_key=context.base_key,
        workload=context.task.workload,
        special_ids=context.task.tokenizer.all_special_ids,
        lengths=texts.lengths,
        batch_of=lambda positions: texts.batch(positions).inputs,
    )
