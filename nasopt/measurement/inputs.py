"""Latency as an objective: a record for each candidate, measured on the device at hand or predicted for another.

A *source* says how long candidate and base model take, and where that comes from. The value of the objective is the
ratio of the two times the base model's latency at trial 0, so that the drift of a busy machine cancels and values of
different days compare. A study never mixes sources or devices in one objective: see :func:`device_changes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.config.study import LatencyConfig
from nasopt.training.context import Context

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def inputs_of(latency: LatencyConfig, context: Context, model: PreTrainedModel) -> list[dict[str, Tensor]]:
    """The batches that are measured: one of fixed full length, or a sample of the validation split's texts."""
    from nasopt.measurement.lengths import sampled_batches, shortened

    if latency.lengths == "fixed":
        return [fixed_batch(latency, context, model)]
    split = context.splits["validation"].sides[0]
    batches = (split.batch(positions) for positions in sampled_batches(len(split), latency.batch_size))
    inputs = [shortened(batch.to(model.device).inputs, latency.sequence_length) for batch in batches]
    # A smaller vocabulary lacks some of the tokens; which ones are read does not matter to the time.
    last = _vocabulary(model) - 1
    return [{**item, "input_ids": item["input_ids"].clamp(max=last)} for item in inputs]


def shapes_of(latency: LatencyConfig, context: Context) -> list[tuple[int, int]]:
    """Batch size and padded length of each batch that is measured."""
    from nasopt.measurement.lengths import sampled_batches

    if latency.lengths == "fixed":
        return [(latency.batch_size, latency.sequence_length)]
    lengths = context.splits["validation"].sides[0].lengths
    positions = sampled_batches(len(lengths), latency.batch_size)
    return [(latency.batch_size, min(int(lengths[one].max()), latency.sequence_length)) for one in positions]


def fixed_batch(latency: LatencyConfig, context: Context, model: PreTrainedModel) -> dict[str, Tensor]:
    """A batch of random tokens that the model (and the base model) knows, on its device, every text at full length."""
    from nasopt.measurement.measured.latency import fixed_inputs

    return fixed_inputs(
        latency.batch_size,
        latency.sequence_length,
        vocab_size=_vocabulary(model),
        special_ids=context.task.tokenizer.all_special_ids,
        device=model.device,
    )


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
