"""Makes the subject of latency sources from a candidate and its context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.measurement.subject import Subject
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.models.onnx import OnnxModel


def subject_of(artifact: PreTrainedModel | OnnxModel, candidate: Candidate, context: Context) -> Subject:
    """A candidate beside the study's base model, as latency sources see it.

    Args:
        artifact: the candidate in its precision.
        candidate: the candidate itself.
        context: the study's base model, data and task.
    """
    texts = context.splits["validation"].sides[0]
    return Subject(
        artifact=artifact,
        architecture=candidate.architecture,
        vocabulary=int(candidate.model.get_input_embeddings().weight.shape[0]),
        shape=context.shape,
        base_model=context.base_model,
        base_key=context.base_key,
        workload=context.task.workload,
        special_ids=context.task.tokenizer.all_special_ids,
        lengths=texts.lengths,
        batch_of=lambda positions: texts.batch(positions).inputs,
    )
