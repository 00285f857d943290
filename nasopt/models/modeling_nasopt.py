"""Encoders whose layers keep different numbers of attention heads and FFN neurons.

Published BERT-like configurations say one number of heads and one FFN width for all layers, so a pruned model needs
its own configuration: `layer_heads` and `layer_ffn`, one count per layer, 0 for a block that is gone. A block without
heads or neurons adds its output bias and nothing else, as it would if all its units were masked.

This file is copied into every exported folder that needs it and stands alone: it imports torch and transformers only.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

MODEL_TYPE_PREFIX = "nasopt-"


@dataclass(frozen=True)
class LayerParts:
    """Where the parts of an encoder are: `layers` below the base model, all others below one layer.

    `attention` is the module that returns (output, attention weights); `attention_output`, the projection of the heads'
    outputs to the hidden size, may be part of it (DistilBERT) or not.
    """

    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    up: str
    activation: str
    down: str

    def encoder_layers(self, model: nn.Module) -> nn.ModuleList:
        """The list of layers of a model with or without a head."""
        prefix = getattr(model, "base_model_prefix", "")
        layers = getattr(model, prefix, model).get_submodule(self.layers)
        assert isinstance(layers, nn.ModuleList)
        return layers


_BERT_PARTS = LayerParts(
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
)

LAYER_PARTS = {
    "bert": _BERT_PARTS,
    "roberta": _BERT_PARTS,
    "electra": _BERT_PARTS,
    "distilbert": LayerParts(
        layers="transformer.layer",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        up="ffn.lin1",
        activation="ffn.activation",
        down="ffn.lin2",
    ),
}
"""By the model type of the configuration."""


class OutputBias(nn.Module):
    """What is left of an output projection whose inputs are all gone: its bias, at every position."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=bias.requires_grad)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.bias.expand(*hidden_states.shape[:-1], -1)


class NoAttention(nn.Module):
    """Stands where self-attention was. Its child, if it has one, is the output projection that was part of it."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        for projection in self.children():
            hidden_states = projection(hidden_states)
        return hidden_states, None


def remove_attention(layer: nn.Module, parts: LayerParts) -> None:
    """Replaces the attention of a layer by its output bias."""
    bias = _bias_of(layer.get_submodule(parts.attention_output))
    empty = NoAttention()
    layer.set_submodule(parts.attention, empty)
    inside = parts.attention_output.removeprefix(f"{parts.attention}.")
    if inside != parts.attention_output:
        empty.add_module(inside, bias)
    else:
        layer.set_submodule(parts.attention_output, bias)


def remove_ffn(layer: nn.Module, parts: LayerParts) -> None:
    """Replaces the feed-forward block of a layer by its output bias."""
    bias = _bias_of(layer.get_submodule(parts.down))
    layer.set_submodule(parts.up, nn.Identity())
    layer.set_submodule(parts.activation, nn.Identity())
    layer.set_submodule(parts.down, bias)


def note_heads(attention: nn.Module, heads: int, head_size: int) -> None:
    """Tells an attention module how many heads its projections have now."""
    for name, value in (("num_attention_heads", heads), ("n_heads", heads), ("all_head_size", heads * head_size)):
        if hasattr(attention, name):
            setattr(attention, name, value)


def _bias_of(linear: nn.Module) -> OutputBias:
    assert isinstance(linear, nn.Linear)
    bias = torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias
    return OutputBias(bias.detach().clone().requires_grad_(linear.weight.requires_grad))


def _shape_encoder(model: nn.Module, config: Any) -> None:
    """Gives the layers of a full-size model, whose weights do not matter yet, the sizes that its configuration says."""
    parts = LAYER_PARTS[config.model_type.removeprefix(MODEL_TYPE_PREFIX)]
    hidden_size, head_size = config.hidden_size, config.hidden_size // config.num_attention_heads
    layers = parts.encoder_layers(model)
    for layer, heads, neurons in zip(layers, config.layer_heads, config.layer_ffn, strict=True):
        if heads == 0:
            remove_attention(layer, parts)
        else:
            for name in (parts.query, parts.key, parts.value):
                layer.set_submodule(name, nn.Linear(hidden_size, heads * head_size))
            layer.set_submodule(parts.attention_output, nn.Linear(heads * head_size, hidden_size))
            note_heads(layer.get_submodule(parts.attention), heads, head_size)
        if neurons == 0:
            remove_ffn(layer, parts)
        else:
            layer.set_submodule(parts.up, nn.Linear(hidden_size, neurons))
            layer.set_submodule(parts.down, nn.Linear(neurons, hidden_size))


class _LayerCounts(PretrainedConfig):
    """Configuration with `layer_heads` and `layer_ffn`: what each layer keeps. None for all.

    Subclasses define `__init__` though it does nothing: transformers would give them another one.
    """

    def __init__(self, layer_heads: list[int] | None = None, layer_ffn: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = self.num_hidden_layers
        width = getattr(self, "intermediate_size", None) or self.hidden_dim
        self.layer_heads = [self.num_attention_heads] * layers if layer_heads is None else layer_heads
        self.layer_ffn = [width] * layers if layer_ffn is None else layer_ffn
        if not len(self.layer_heads) == len(self.layer_ffn) == layers:
            raise ValueError(
                f"`layer_heads` and `layer_ffn` must have one number for each of the {layers} layers, "
                f"but have {len(self.layer_heads)} and {len(self.layer_ffn)}"
            )


class _Shaped(PreTrainedModel):
    """Model whose layers have the sizes that a :class:`_LayerCounts` says."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        _shape_encoder(self, config)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        # transformers 5 cannot undo its conversion of bitsandbytes weights when it saves, and need not: they are stored
        # as they are. Without quantisation these models have no other format either.
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})


class NasoptBertConfig(_LayerCounts, BertConfig):
    model_type = "nasopt-bert"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class NasoptBertModel(_Shaped, BertModel):
    config_class = NasoptBertConfig


class NasoptBertForSequenceClassification(_Shaped, BertForSequenceClassification):
    config_class = NasoptBertConfig


class NasoptRobertaConfig(_LayerCounts, RobertaConfig):
    model_type = "nasopt-roberta"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class NasoptRobertaModel(_Shaped, RobertaModel):
    config_class = NasoptRobertaConfig


class NasoptRobertaForSequenceClassification(_Shaped, RobertaForSequenceClassification):
    config_class = NasoptRobertaConfig


class NasoptDistilBertConfig(_LayerCounts, DistilBertConfig):
    model_type = "nasopt-distilbert"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class NasoptDistilBertModel(_Shaped, DistilBertModel):
    config_class = NasoptDistilBertConfig


class NasoptDistilBertForSequenceClassification(_Shaped, DistilBertForSequenceClassification):
    config_class = NasoptDistilBertConfig


class NasoptElectraConfig(_LayerCounts, ElectraConfig):
    model_type = "nasopt-electra"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class NasoptElectraModel(_Shaped, ElectraModel):
    config_class = NasoptElectraConfig


class NasoptElectraForSequenceClassification(_Shaped, ElectraForSequenceClassification):
    config_class = NasoptElectraConfig


MODELS = {
    NasoptBertConfig: (NasoptBertModel, NasoptBertForSequenceClassification),
    NasoptRobertaConfig: (NasoptRobertaModel, NasoptRobertaForSequenceClassification),
    NasoptDistilBertConfig: (NasoptDistilBertModel, NasoptDistilBertForSequenceClassification),
    NasoptElectraConfig: (NasoptElectraModel, NasoptElectraForSequenceClassification),
}
CONFIGS = {config.model_type: config for config in MODELS}


def register() -> None:
    """Makes transformers' Auto classes know these models, so that they load without `trust_remote_code`."""
    for config, (encoder, classifier) in MODELS.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, encoder, exist_ok=True)
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
        # `save_pretrained` copies this file beside the weights for classes that have an auto class.
        config.register_for_auto_class()
        encoder.register_for_auto_class("AutoModel")
        classifier.register_for_auto_class("AutoModelForSequenceClassification")
