"""Encoders whose layers keep different numbers of attention heads and FFN neurons.

Published BERT-like configurations have one number of heads and one FFN width for all layers, so a pruned model needs
its own configuration: `layer_heads` and `layer_ffn`, one count per layer, 0 for a block that is gone. A block without
heads or neurons adds its output bias and nothing else, as it would if all its units were masked.

This file is copied into every exported folder that needs it and stands alone: it imports torch and transformers only.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

MODEL_TYPE_PREFIX = "nasopt-"
SUFFIXES = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

MODELS: dict[Any, tuple[Any, ...]] = {}
"""The encoder of each family, without and with each head, by the class of their configuration."""


@dataclass(frozen=True)
class LayerParts:
    """The names of an encoder's parts: `layers` below the base model, all others below one layer.

    `attention` is the module that returns (output, attention weights); `attention_output`, the projection of the heads'
    outputs to the hidden size, may be part of it (DistilBERT) or not. `projections` are the linear layers whose rows
    belong to heads; a model of the family may lack some. They, and `up`, may hold several matrices of the same height
    one below the other (ModernBERT's query, key and value).
    """

    layers: str
    attention: str
    projections: tuple[str, ...]
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

    def head_linears(self, layer: nn.Module) -> dict[str, nn.Linear]:
        """The linear layers, by name, whose rows belong to the heads of a layer that has some."""
        modules = dict(layer.named_modules())
        return {name: module for name in self.projections if isinstance(module := modules.get(name), nn.Linear)}


_BERT_PARTS = LayerParts(
    layers="encoder.layer",
    attention="attention.self",
    projections=("attention.self.query", "attention.self.key", "attention.self.value"),
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
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        up="ffn.lin1",
        activation="ffn.activation",
        down="ffn.lin2",
    ),
    "mpnet": replace(
        _BERT_PARTS,
        attention="attention.attn",
        projections=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention_output="attention.attn.o",
    ),
    "deberta-v2": replace(
        _BERT_PARTS,
        projections=(
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.self.pos_key_proj",
            "attention.self.pos_query_proj",
        ),
    ),
    "modernbert": LayerParts(
        layers="layers",
        attention="attn",
        projections=("attn.Wqkv",),
        attention_output="attn.Wo",
        up="mlp.Wi",
        activation="mlp.act",
        down="mlp.Wo",
    ),
}
"""The parts of each family, by the model type of its configuration."""


class OutputBias(nn.Module):
    """The rest of an output projection whose inputs are all gone: its bias, at every position."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=bias.requires_grad)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.bias.expand(*hidden_states.shape[:-1], -1)


class NoOutput(nn.Module):
    """The rest of an output projection without a bias whose inputs are all gone: zeros of its size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.new_zeros((*hidden_states.shape[:-1], self.size))


class NoAttention(nn.Module):
    """A module in place of self-attention. Its child, if it has one, is the rest of the projection that was inside."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        for projection in self.children():
            hidden_states = projection(hidden_states)
        return hidden_states, None


class MPNetHeads(MPNetSelfAttention):
    """MPNet's self-attention with some of its heads.

    All layers add one shared bias to their attention scores, of shape (batch, heads of the full model, tokens, tokens);
    each takes the part of its own heads.
    """

    def __init__(self, attention: MPNetSelfAttention, heads: Sequence[int]) -> None:
        """Takes over the parts of `attention`, which has only `heads` (in the full model's numbering) already."""
        nn.Module.__init__(self)
        for name, module in attention.named_children():
            self.add_module(name, module)
        self.kept_heads = list(heads)
        self.num_attention_heads = len(self.kept_heads)
        self.attention_head_size = attention.attention_head_size
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        self.train(attention.training)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        if position_bias is not None:
            # Slices, unlike an index, cost no copy from host to device, and nothing where all heads are kept.
            runs = [position_bias[:, first:end] for first, end in _runs(self.kept_heads)]
            position_bias = runs[0] if len(runs) == 1 else torch.cat(runs, dim=1)
        outputs: tuple[Tensor, ...] = super().forward(hidden_states, attention_mask, position_bias, **kwargs)
        return outputs


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges: `[0, 1, 2, 5]` gives `[(0, 3), (5, 6)]`."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


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


def note_heads(layer: nn.Module, parts: LayerParts, heads: Sequence[int], head_size: int) -> None:
    """Updates the attention of a layer to the heads, in the full model's numbering, that its projections have now."""
    attention = layer.get_submodule(parts.attention)
    if isinstance(attention, MPNetSelfAttention):
        layer.set_submodule(parts.attention, MPNetHeads(attention, heads))
        return
    count = len(heads)
    for name, value in (("num_attention_heads", count), ("n_heads", count), ("all_head_size", count * head_size)):
        if hasattr(attention, name):
            setattr(attention, name, value)


def _bias_of(linear: nn.Module) -> nn.Module:
    assert isinstance(linear, nn.Linear)
    if linear.bias is None:
        return NoOutput(linear.out_features)
    return OutputBias(linear.bias.detach().clone().requires_grad_(linear.weight.requires_grad))


def _resized(linear: nn.Module, in_features: int, out_features: int) -> nn.Linear:
    assert isinstance(linear, nn.Linear)
    return nn.Linear(in_features, out_features, bias=linear.bias is not None)


def _shape_encoder(model: nn.Module, config: Any) -> None:
    """Gives the layers of a full-size model, whose weights do not matter yet, the sizes in its configuration."""
    parts = LAYER_PARTS[config.model_type.removeprefix(MODEL_TYPE_PREFIX)]
    hidden_size, head_size = config.hidden_size, config.hidden_size // config.num_attention_heads
    kept = getattr(config, "layer_kept_heads", None) or [range(heads) for heads in config.layer_heads]
    for layer, heads, neurons in zip(parts.encoder_layers(model), kept, config.layer_ffn, strict=True):
        if heads:
            size = len(heads) * head_size
            for name, linear in parts.head_linears(layer).items():
                matrices = linear.out_features // hidden_size
                layer.set_submodule(name, _resized(linear, hidden_size, matrices * size))
            output = layer.get_submodule(parts.attention_output)
            layer.set_submodule(parts.attention_output, _resized(output, size, hidden_size))
            note_heads(layer, parts, heads, head_size)
        else:
            remove_attention(layer, parts)
        if neurons:
            up, down = layer.get_submodule(parts.up), layer.get_submodule(parts.down)
            assert isinstance(up, nn.Linear)
            assert isinstance(down, nn.Linear)
            matrices = up.out_features // down.in_features
            layer.set_submodule(parts.up, _resized(up, hidden_size, matrices * neurons))
            layer.set_submodule(parts.down, _resized(down, neurons, hidden_size))
        else:
            remove_ffn(layer, parts)


class _LayerCounts(PretrainedConfig):
    """A configuration with `layer_heads` and `layer_ffn`, the numbers that each layer keeps. None stands for all.

    Subclasses define an `__init__` that does nothing, because transformers would give them another one.
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
    """A model whose layers have the sizes of a :class:`_LayerCounts`."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        _shape_encoder(self, config)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        # transformers 5 cannot undo its conversion of bitsandbytes weights when it saves, and need not: they are
        # stored as they are. Without quantisation these models have no other format either.
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})


def _add_models(config: Any, name: str, shaped: type = _Shaped) -> None:
    """Adds a family to :data:`MODELS`: its encoder, without and with each head, with layers of the sizes in a
    configuration of the class `config`. This module gets the classes by their names, by which they are loaded."""
    values = {"config_class": config, "__module__": __name__}
    bases = [getattr(transformers, f"{name}{suffix}") for suffix in SUFFIXES]
    MODELS[config] = tuple(type(f"Nasopt{base.__name__}", (shaped, base), values) for base in bases)
    globals().update({model.__name__: model for model in MODELS[config]})


def _config(base: Any) -> Any:
    """The configuration of a family that needs no other values than the counts of its layers."""

    class Config(_LayerCounts, base):
        model_type = f"{MODEL_TYPE_PREFIX}{base.model_type}"

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    Config.__name__ = Config.__qualname__ = f"Nasopt{base.__name__}"
    return Config


NasoptBertConfig = _config(transformers.BertConfig)
_add_models(NasoptBertConfig, "Bert")

NasoptRobertaConfig = _config(transformers.RobertaConfig)
_add_models(NasoptRobertaConfig, "Roberta")

NasoptDistilBertConfig = _config(transformers.DistilBertConfig)
_add_models(NasoptDistilBertConfig, "DistilBert")

NasoptElectraConfig = _config(transformers.ElectraConfig)
_add_models(NasoptElectraConfig, "Electra")


class NasoptMPNetConfig(_LayerCounts, transformers.MPNetConfig):
    """A configuration that also has the heads of each layer, because the layers share a bias with a column per head."""

    model_type = "nasopt-mpnet"

    def __init__(self, layer_kept_heads: list[list[int]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer_kept_heads = layer_kept_heads or [list(range(heads)) for heads in self.layer_heads]
        if [len(heads) for heads in self.layer_kept_heads] != self.layer_heads:
            raise ValueError(
                f"`layer_kept_heads` ({self.layer_kept_heads}) does not have as many heads for each layer as "
                f"`layer_heads` ({self.layer_heads})"
            )


_add_models(NasoptMPNetConfig, "MPNet")

NasoptDebertaV2Config = _config(transformers.DebertaV2Config)
_add_models(NasoptDebertaV2Config, "DebertaV2")


class NasoptModernBertConfig(_LayerCounts, transformers.ModernBertConfig):
    """A configuration that also says whether the first layer normalises its input.

    Only the first layer of the full model takes the embeddings as they are.
    """

    model_type = "nasopt-modernbert"

    def __init__(self, first_layer_norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first_layer_norm = first_layer_norm


class _ShapedModernBert(_Shaped):
    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if config.first_layer_norm:
            first = LAYER_PARTS["modernbert"].encoder_layers(self)[0]
            first.attn_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


_add_models(NasoptModernBertConfig, "ModernBert", shaped=_ShapedModernBert)

CONFIGS = {config.model_type: config for config in MODELS}
