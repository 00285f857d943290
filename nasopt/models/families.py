"""Which encoders can be cut, and where their parts are.

A new family is one entry in :data:`nasopt.models.modeling_nasopt.LAYER_PARTS` with its classes in that file, and one
entry in :data:`FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel

from nasopt.errors import UnsupportedModelError, choices
from nasopt.models.architecture import EncoderShape
from nasopt.models.modeling_nasopt import LAYER_PARTS, MODEL_TYPE_PREFIX, LayerParts, register

# For those who import this before transformers' Auto classes: see nasopt.registration.
register()


@dataclass(frozen=True)
class Family:
    """Encoders with the same modules under the same names.

    Attributes:
        model_type: Hugging Face's name of the family.
        parts: where the layers, projections and feed-forward matrices are.
        num_layers_key, num_heads_key, ffn_key: the configuration's names of these sizes.
    """

    model_type: str
    parts: LayerParts
    num_layers_key: str = "num_hidden_layers"
    num_heads_key: str = "num_attention_heads"
    ffn_key: str = "intermediate_size"


FAMILIES = {
    family.model_type: family
    for family in (
        Family("bert", LAYER_PARTS["bert"]),
        Family("roberta", LAYER_PARTS["roberta"]),
        Family("electra", LAYER_PARTS["electra"]),
        Family("distilbert", LAYER_PARTS["distilbert"], "n_layers", "n_heads", "hidden_dim"),
    )
}
"""By model type."""


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
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"the model is of the type {model_type!r}, which cannot be cut; supported types: {choices(FAMILIES)}"
        )
    for option in ("is_decoder", "add_cross_attention"):
        if getattr(config, option, False):
            raise UnsupportedModelError(
                f"the {model_type!r} model has `{option}` set in its configuration; only encoders can be cut"
            )
    return FAMILIES[model_type]


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
