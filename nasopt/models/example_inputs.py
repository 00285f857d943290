"""Inputs of a model that are the same at every call: what models are traced with, and compared on."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.models.families import max_positions


def fixed_batch(model: PreTrainedModel, batch_size: int = 4, tokens: int = 16) -> dict[str, Tensor]:
    """Texts of random tokens, half of them padded, the same at every call; no longer than the model reads.

    Returns:
        `input_ids` and `attention_mask`, both of shape (batch_size, tokens), int64, on the model's device; for a model
        with a decoder `decoder_input_ids` too, the same tokens.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = min(tokens, max_positions(model.config))
    ids = torch.randint(0, model.config.vocab_size, (batch_size, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::4, max(tokens // 2, 1) :] = 0
    mask[3::4, 1:] = 0
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    return {**inputs, "decoder_input_ids": inputs["input_ids"]} if model.config.is_encoder_decoder else inputs


def named_batch(model: PreTrainedModel, names: Sequence[str], batch_size: int, tokens: int) -> dict[str, Tensor]:
    """The fixed batch of these sizes, with segments (the second half of a text is the second one) if they are taken.

    Returns:
        The inputs `names`, in their order, each of shape (batch_size, tokens), int64.
    """
    inputs = fixed_batch(model, batch_size, tokens)
    if "token_type_ids" in names and getattr(model.config, "type_vocab_size", 0) > 1:
        segments = torch.zeros_like(inputs["input_ids"])
        segments[:, segments.shape[1] // 2 :] = 1
        inputs["token_type_ids"] = segments
    elif "token_type_ids" in names:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return {name: inputs[name] for name in names}


def input_names(model: PreTrainedModel, given: Collection[str]) -> list[str]:
    """The inputs that a model takes, of those that a tokenizer gives, in the model's order: a trace knows no other.

    DistilBERT takes no segments whatever its tokenizer gives.
    """
    return [name for name in inspect.signature(model.forward).parameters if name in given]
