"""Looks at models that were made elsewhere: what they are made of, as far as that can be told."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from nasopt.architecture.outside import OutsideArchitecture, OutsideModel
from nasopt.models.families import FAMILIES, encoder_shape
from nasopt.models.modeling_nasopt import LAYER_PARTS, MODEL_TYPE_PREFIX


def outside_architecture(model: PreTrainedModel, origin: OutsideModel) -> OutsideArchitecture:
    """The shape of a model; its layers are those of the decoder where there is one.

    Args:
        model: any model, cut by nasopt or not.
        origin: where it comes from.
    """
    config = model.config
    model_type = config.model_type.removeprefix(MODEL_TYPE_PREFIX)
    hidden = int(getattr(config, "hidden_size", 0))
    if config.is_encoder_decoder:
        shape = encoder_shape(config)
        layers = ((shape.num_heads, shape.ffn_size),) * shape.num_layers
        return OutsideArchitecture(origin, model_type, layers, hidden, shape.head_size)
    if model_type in FAMILIES:
        head_size = hidden // int(getattr(config, FAMILIES[model_type].num_heads_key))
        return OutsideArchitecture(origin, model_type, _layers(model, model_type, head_size), hidden, head_size)
    return OutsideArchitecture(origin, model_type, (), hidden, 0)


def _layers(model: PreTrainedModel, model_type: str, head_size: int) -> tuple[tuple[int, int], ...]:
    """The heads and FFN neurons of each layer of an encoder; a block that is gone has none."""
    parts = LAYER_PARTS[model_type]
    found = []
    for layer in parts.encoder_layers(model):
        modules = dict(layer.named_modules())
        attention, down = modules.get(parts.attention_output), modules.get(parts.down)
        found.append(
            (
                attention.in_features // head_size if isinstance(attention, nn.Linear) else 0,
                down.in_features if isinstance(down, nn.Linear) else 0,
            )
        )
    return tuple(found)
