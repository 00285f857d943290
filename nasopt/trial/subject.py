"""Makes the subject of latency sources from a candidate and its context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nasopt.measurement.subject import Subject
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context

if TYPE_CHECKING:
    from torch import Tensor
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
    # Both models read every batch, so it has the base model's lengths, and tokens and inputs that both know.
    vocabularies = [int(item.get_input_embeddings().weight.shape[0]) for item in (candidate.model, context.base_model)]
    its = context.view(candidate.architecture).task
    special = {*context.task.tokenizer.all_special_ids, *its.tokenizer.all_special_ids}
    names = None if its is context.task else ("input_ids", "attention_mask")

    def batch_of(positions: Tensor) -> Mapping[str, Tensor]:
        inputs = texts.batch(positions).inputs
        return inputs if names is None else {name: inputs[name] for name in names}

    return Subject(
        artifact=artifact,
        architecture=candidate.architecture,
        vocabulary=min(vocabularies),
        shape=context.shape,
        base_model=context.base_model,
        base_key=context.base_key,
        workload=context.task.workload,
        special_ids=special,
        lengths=texts.lengths,
        batch_of=batch_of,
    )
