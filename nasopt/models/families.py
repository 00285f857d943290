"""Which encoders can be cut, and where their parts are.

A new family is one entry in :data:`nasopt.models.modeling_nasopt.LAYER_PARTS` with its classes in that file, and one
entry in :data:`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from nasopt.errors import UnsupportedModelError, choices
from nasopt.models import modeling_adabert, modeling_nasopt
from nasopt.models.architecture import EncoderShape
from nasopt.models.modeling_nasopt import LAYER_PARTS, MODEL_TYPE_PREFIX, LayerParts

OWN_CLASSES: dict[str, tuple[Any, Any]] = {
    config.model_type: classes
    for module in (modeling_nasopt, modeling_adabert)
    for config, classes in module.MODELS.items()
}
"""Our own encoder and classifier, by model type; exported folders bring along the file that defines them."""

# For those who import this before transformers' Auto classes: see nasopt.registration.
for module in (modeling_nasopt, modeling_adabert):
    module.register()


def _nothing(model: PreTrainedModel) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """Encoders with the same modules under the same names.

    Attributes:
        model_type: Hugging Face's name of the family.
        parts: where the layers, projections and feed-forward matrices are.
        num_layers_key, num_heads_key, ffn_key: the configuration's names of these sizes.
        is_traceable: whether torch-pruning's dependency graph understands the model.
        own_values: (cut model) -> what our own configuration must say of it besides the counts of its layers; empty if
            nothing. Only a model with nothing to say may be exported with a standard configuration.
        obstacle: (configuration) -> why a model of the family cannot be cut all the same; None if it can.
        first_position: (configuration) -> number of a text's first position in the table of position embeddings.
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


def _mpnet_heads(model: PreTrainedModel) -> dict[str, Any]:
    """Which columns of the shared relative-attention bias each layer adds, if some layer does not add all."""
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
        Family("modernbert", LAYER_PARTS["modernbert"], is_traceable=False, own_values=_modernbert_norm),
    )
}
"""By model type."""

REFUSED = {
    "albert": "all its layers are one layer repeated, so that they cannot keep different heads and neurons",
    "deberta": "its heads' projections are interleaved in one matrix; DeBERTa-v2 and v3 can be cut",
}
"""Encoders that cannot be cut layer by layer, by model type, with the reason."""


def family_of(model: PreTrainedModel | PretrainedConfig) -> Family:
    """The family of a model or of its configuration.

    Raises:
        UnsupportedModelError: it is not an encoder that can be cut.
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
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"the model is of the type {model_type!r}, which cannot be cut; supported types: {choices(FAMILIES)}"
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


def max_positions(config: PretrainedConfig) -> int:
    """The longest text that a model can read, in tokens (that it was made for, where it has no positions).

    Raises:
        UnsupportedModelError: see :func:`family_of`.
    """
    if config.model_type in modeling_adabert.CONFIGS:
        return int(config.max_position_embeddings)
    return int(config.max_position_embeddings) - family_of(config).first_position(config)


def encoder_shape(config: PretrainedConfig) -> EncoderShape:
    """The sizes that a configuration of a supported family says.

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
