"""The batches that are measured: texts of one fixed full length, or with the lengths of real texts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from nasopt.config.study import LatencyConfig
from nasopt.measurement.subject import Subject

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


def inputs_of(latency: LatencyConfig, subject: Subject, device: torch.device) -> list[dict[str, Tensor]]:
    """The batches that are measured: one of fixed full length, or a sample of the validation split's texts.

    Returns:
        The inputs of each batch, tensors of shape (batch, tokens) on `device`.
    """
    from nasopt.measurement.lengths import sampled_batches, shortened

    if latency.lengths == "fixed":
        return [_fixed(latency, subject.vocabulary, subject.special_ids, device)]
    batches = map(subject.batch_of, sampled_batches(len(subject.lengths), latency.batch_size))
    inputs = [shortened(batch, latency.sequence_length) for batch in batches]
    # A smaller vocabulary lacks some of the tokens; which ones are read does not matter to the time.
    last = subject.vocabulary - 1
    return [
        {name: (tensor.clamp(max=last) if name == "input_ids" else tensor).to(device) for name, tensor in item.items()}
        for item in inputs
    ]


def shapes_of(latency: LatencyConfig, lengths: Tensor) -> list[tuple[int, int]]:
    """Batch size and padded length of each batch that is measured.

    Args:
        latency: the objective.
        lengths: tokens of each text of the validation split, shape (texts,), int64.
    """
    from nasopt.measurement.lengths import sampled_batches

    if latency.lengths == "fixed":
        return [(latency.batch_size, latency.sequence_length)]
    positions = sampled_batches(len(lengths), latency.batch_size)
    return [(latency.batch_size, min(int(lengths[one].max()), latency.sequence_length)) for one in positions]


def fixed_batch(latency: LatencyConfig, model: PreTrainedModel, special_ids: Collection[int]) -> dict[str, Tensor]:
    """A batch of random tokens that the model (and the base model) knows, on its device, every text at full length.

    Returns:
        Inputs of shape (batch, tokens).
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return _fixed(latency, vocabulary, special_ids, model.device)


def _fixed(
    latency: LatencyConfig, vocabulary: int, special_ids: Collection[int], device: torch.device
) -> dict[str, Tensor]:
    from nasopt.measurement.measured.latency import fixed_inputs

    size, length = latency.batch_size, latency.sequence_length
    return fixed_inputs(size, length, vocab_size=vocabulary, special_ids=special_ids, device=device)
