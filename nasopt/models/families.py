"""The families of models that can be cut, and the places of their parts.

A new family of encoders is one entry in :data:`nasopt.models.modeling_nasopt.LAYER_PARTS` with its classes in that
file, and one entry in :data:`FAMILIES`. A new family of encoder-decoders, whose *decoder* layers can be removed whole,
is one entry in :data:`ENCODER_DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from nasopt.architecture.base import EncoderShape
from nasopt.errors import UnsupportedModelError, choices
from nasopt.models.modeling_nasopt import LAYER_PARTS, MODEL_TYPE_PREFIX, LayerParts
from nasopt.models.registration import modeling_modules, register_models

MODELING_MODULES = tuple(import_module(name) for name in modeling_modules())

OWN_CLASSES: dict[str, tuple[Any, ...]] = {
    config.model_type: classes for module in MODELING_MODULES for config, classes in module.MODELS.items()
}
"""Encoder and classifiers of the models that transformers lacks, by model type: ours, and those of other packages.
Exported folders contain the file that defines them."""

# This serves modules that import this one before transformers' Auto classes: see nasopt.models.registration.
for module in MODELING_MODULES:
    register_models(module)


def _nothing(model: PreTrainedModel) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """Models with the same modules under the same names. `layers` are those of the decoder where there is one.

    Attributes:
        model_type: Hugging Face's name of the family.
        parts: the places of the layers, projections and feed-forward matrices.
        num_layers_key, num_heads_key, ffn_key: the configuration's names of these sizes.
        is_traceable: whether torch-pruning's dependency graph understands the model.
        own_values: (cut model) -> the values that our own configuration must have besides the counts of its layers.
            Only a model for which they are empty may be exported with a standard configuration.
        obstacle: (configuration) -> the reason why a model of the family cannot be cut all the same; None if it can.
        first_position: (configuration) -> the number of a text's first position in the table of position embeddings.
        is_encoder_decoder: whether the layers are a decoder's; those can only be removed whole.
        is_pre_norm: whether a layer adds to the residual stream without normalising the sum, so that a layer that
            writes zeros is as good as none.
        cross_attention_output: the projection of the attention to the encoder's outputs; None in encoders.
        shared: the module in the first layer, if there is one, that the layers after it use too.
    """

    model_type: str
    parts: LayerParts
    num_layers_key: str = "num_hidden_layers"
    num_heads_key: str = "num_attention_heads"
    ffn_key: str = "intermediate_size"
    is_traceable: bool = True
    own_values: Callable[[PreTrainedModel], dict[str, Any]] = _nothing
    obstacle: Callable[[PretrainedConfig], str | None] = lambda config: None
    first_position: Callable[[PretrainedConfig], int] = lambda config: 0
    is_encoder_decoder: bool = False
    is_pre_norm: bool = False
    cross_attention_output: str | None = None
    shared: str | None = None

    @property
    def writers(self) -> tuple[str, ...]:
        """The modules of a layer that write to the residual stream: with weights and biases of 0 they add nothing."""
        every = (self.parts.attention_output, self.cross_attention_output, self.parts.down)
        return tuple(name for name in every if name is not None)


def _mpnet_heads(model: PreTrainedModel) -> dict[str, Any]:
    """The columns of the shared relative-attention bias that each layer adds, if some layer does not add all."""
    parts = LAYER_PARTS["mpnet"]
    attentions = [layer.get_submodule(parts.attention) for layer in parts.encoder_layers(model)]
    every = list(range(model.config.num_attention_heads))
    kept = [getattr(attention, "kept_heads", every) for attention in attentions]
    heads = [columns if hasattr(attention, "q") else [] for attention, columns in zip(attentions, kept, strict=True)]
    return {} if all(columns == every for columns in heads) else {"layer_kept_heads": heads}


def _modernbert_norm(model: PreTrainedModel) -> dict[str, Any]:
    """Whether the first layer normalises its input: it does if the first one of the base model is gone."""
    first = LAYER_PARTS["modernbert"].encoder_layers(model)[0].get_submodule("attn_norm")
    return {"first_layer_norm": True} if isinstance(first, nn.LayerNorm) else {}


def _deberta_obstacle(config: PretrainedConfig) -> str | None:
    if getattr(config, "conv_kernel_size", 0) > 0:
        return "it has a convolution beside its first layer (`conv_kernel_size`), which cannot stay if that layer goes"
    head_size = config.hidden_size // config.num_attention_heads
    if getattr(config, "attention_head_size", head_size) != head_size:
        return f"its heads are not of the size `hidden_size` / `num_attention_heads` ({head_size})"
    return None


FAMILIES = {
    family.model_type: family
    for family in (
        Family("bert", LAYER_PARTS["bert"]),
        Family("roberta", LAYER_PARTS["roberta"], first_position=lambda config: int(config.pad_token_id) + 1),
        Family("electra", LAYER_PARTS["electra"]),
        Family("distilbert", LAYER_PARTS["distilbert"], "n_layers", "n_heads", "hidden_dim"),
        # All layers share one relative-attention bias, which the graph would cut with the heads of any of them.
        # MPNet counts positions from 2 on, whatever its padding token.
        Family(
            "mpnet", LAYER_PARTS["mpnet"], is_traceable=False, own_values=_mpnet_heads, first_position=lambda config: 2
        ),
        Family("deberta-v2", LAYER_PARTS["deberta-v2"], obstacle=_deberta_obstacle),
        # One matrix holds query, key and value; another one both inputs of the gated FFN.
        Family(
            "modernbert",
            LAYER_PARTS["modernbert"],
            is_traceable=False,
            own_values=_modernbert_norm,
            is_pre_norm=True,
        ),
    )
}
"""Encoders, by model type."""


def _bart_like(model_type: str, is_pre_norm: bool) -> Family:
    parts = LayerParts(
        layers="decoder.layers",
        attention="self_attn",
        projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attention_output="self_attn.out_proj",
        up="fc1",
        activation="activation_fn",
        down="fc2",
    )
    return Family(
        model_type,
        parts,
        num_layers_key="decoder_layers",
        num_heads_key="decoder_attention_heads",
        ffn_key="decoder_ffn_dim",
        is_encoder_decoder=True,
        is_pre_norm=is_pre_norm,
        cross_attention_output="encoder_attn.out_proj",
    )


def _t5_like(model_type: str) -> Family:
    attention = "layer.0.SelfAttention"
    parts = LayerParts(
        layers="decoder.block",
        attention=attention,
        projections=(f"{attention}.q", f"{attention}.k", f"{attention}.v"),
        attention_output=f"{attention}.o",
        up="layer.2.DenseReluDense.wi",  # wi_0 and wi_1 where the block is gated
        activation="layer.2.DenseReluDense.act",
        down="layer.2.DenseReluDense.wo",
    )
    return Family(
        model_type,
        parts,
        num_layers_key="num_decoder_layers",
        num_heads_key="num_heads",
        ffn_key="d_ff",
        is_encoder_decoder=True,
        is_pre_norm=True,
        cross_attention_output="layer.1.EncDecAttention.o",
        shared=f"{attention}.relative_attention_bias",
    )


ENCODER_DECODERS = {
    family.model_type: family
    for family in (
        *(_bart_like(name, is_pre_norm=True) for name in ("mbart", "m2m_100", "pegasus", "blenderbot")),
        *(_t5_like(name) for name in ("t5", "mt5", "longt5")),
        *(_bart_like(name, is_pre_norm=False) for name in ("bart", "marian", "plbart")),
    )
}
"""Models whose decoder layers can be removed, by model type."""

UNBOUNDED_POSITIONS = 512
"""The number of tokens that models without a table of positions (T5) were trained on."""

COUNTED_FROM_PADDING = ("roberta", "camembert")
"""Parts of the types of encoders that count positions as RoBERTa does, and cannot be cut."""

REFUSED = {
    "albert": "all its layers are one layer repeated, so that they cannot keep different heads and neurons",
    "deberta": "its heads' projections are interleaved in one matrix; DeBERTa-v2 and v3 can be cut",
}
"""Encoders that cannot be cut layer by layer, by model type, with the reason."""


def family_of(model: PreTrainedModel | PretrainedConfig) -> Family:
    """The family of a model or of its configuration.

    Raises:
        UnsupportedModelError: it is neither an encoder nor an encoder-decoder that can be cut.
    """
    config = getattr(model, "config", model)
    model_type = config.model_type
    if model_type.startswith(MODEL_TYPE_PREFIX):
        raise UnsupportedModelError(
            f"the model is of the type {model_type!r}, already cut by nasopt to layers of different sizes, and cannot "
            "be a base model; start from the model it was made of"
        )
    if model_type in REFUSED:
        raise UnsupportedModelError(
            f"the model is of the type {model_type!r}, which cannot be cut: {REFUSED[model_type]}; "
            f"supported types: {choices(FAMILIES)}"
        )
    if model_type in ENCODER_DECODERS and getattr(config, "is_encoder_decoder", False):
        return ENCODER_DECODERS[model_type]
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"the model is of the type {model_type!r}, which cannot be cut; supported types: {choices(FAMILIES)}; and "
            f"with encoder and decoder: {choices(ENCODER_DECODERS)}"
        )
    for option in ("is_decoder", "add_cross_attention"):
        if getattr(config, option, False):
            raise UnsupportedModelError(
                f"the {model_type!r} model has `{option}` set in its configuration; only encoders can be cut"
            )
    family = FAMILIES[model_type]
    obstacle = family.obstacle(config)
    if obstacle is not None:
        raise UnsupportedModelError(f"the {model_type!r} model cannot be cut: {obstacle}")
    return family


def encoder_family_of(model: PreTrainedModel | PretrainedConfig) -> Family:
    """The family of a model without a decoder.

    Raises:
        UnsupportedModelError: the model has a decoder, or see :func:`family_of`.
    """
    family = family_of(model)
    if family.is_encoder_decoder:
        raise UnsupportedModelError(
            f"the model is of the type {family.model_type!r}, which has a decoder; this needs an encoder: "
            f"{choices(FAMILIES)}"
        )
    return family


def max_positions(config: PretrainedConfig) -> int:
    """The number of tokens of the longest text that a model can read, or that it was made for if it has no positions.

    A model that transformers lacks has the number in `max_position_embeddings` of its configuration. The model need not
    be one that can be cut.
    """
    positions = int(getattr(config, "max_position_embeddings", UNBOUNDED_POSITIONS))
    cut_from = config.model_type.removeprefix(MODEL_TYPE_PREFIX)
    if cut_from in FAMILIES:
        return positions - FAMILIES[cut_from].first_position(config)
    if any(name in cut_from for name in COUNTED_FROM_PADDING):
        return positions - FAMILIES["roberta"].first_position(config)
    return positions


def encoder_shape(config: PretrainedConfig) -> EncoderShape:
    """The sizes in a configuration of a supported family.

    Raises:
        UnsupportedModelError: see :func:`family_of`.
    """
    family = family_of(config)
    return EncoderShape(
        num_layers=getattr(config, family.num_layers_key),
        num_heads=getattr(config, family.num_heads_key),
        ffn_size=getattr(config, family.ffn_key),
        hidden_size=config.hidden_size,
    )
