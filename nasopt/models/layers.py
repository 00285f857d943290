"""Removes whole layers of a model, and sorts a layer's weights by what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from nasopt.errors import UnsupportedModelError
from nasopt.models.families import Family, family_of


def keep_layers(model: PreTrainedModel, family: Family, positions: Sequence[int]) -> nn.ModuleList:
    """Drops, in place, the other layers, and updates everything that counts or numbers layers.

    Args:
        model: a model of the family.
        family: says where its layers are; the decoder's, if it has one.
        positions: the positions of the layers that stay, among those that the model has now, ascending.

    Returns:
        The layers that stay.
    """
    layers = family.parts.encoder_layers(model)
    if len(positions) == len(layers):
        return layers
    stay = [layers[position] for position in positions]
    _hand_over(layers[0], stay[0], family)
    del layers[:]
    layers.extend(stay)
    decoder = model.get_decoder() if family.is_encoder_decoder else model
    for config in (model.config, decoder.config):  # T5's decoder has a configuration of its own
        setattr(config, family.num_layers_key, len(stay))
    if decoder.config is not model.config:
        decoder.config.num_hidden_layers = len(stay)
    types = getattr(model.config, "layer_types", None)  # local or global attention, of each layer
    if types is not None:
        model.config.layer_types = [types[position] for position in positions]
    for module in model.modules():
        if hasattr(module, "n_layers"):
            module.n_layers = len(stay)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    return layers


def shared_module(layer: nn.Module, family: Family) -> nn.Module | None:
    """The module of a layer that the layers after it use too (T5's relative-attention bias, in the first block)."""
    return dict(layer.named_modules()).get(family.shared) if family.shared else None


def _hand_over(old: nn.Module, new: nn.Module, family: Family) -> None:
    """Moves the module that all layers share to the layer that becomes the first one."""
    shared = shared_module(old, family)
    if shared is None or old is new or family.shared is None:
        return
    holder, _, name = family.shared.rpartition(".")
    new.get_submodule(holder).add_module(name, shared)
    new.get_submodule(holder).has_relative_attention_bias = True  # type: ignore[assignment]


@dataclass(frozen=True)
class Partition:
    """The names of a model's weights, by what removing one layer does to them (METHODS.md, section 5).

    Attributes:
        zeroed: xi_1, the weights and biases of the layer's output projections, which write to the residual stream.
        removed: xi_2, the layer's other weights.
        kept: v, the weights outside the layer.
    """

    zeroed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


def partition(model: PreTrainedModel, layer: int) -> Partition:
    """Splits the names of a model's parameters; tied ones have one name.

    Args:
        model: a model of a supported family.
        layer: the position of the layer that is to go, in the decoder if there is one.

    Raises:
        UnsupportedModelError: the model is of no such family, or its layer lacks an output projection.
        IndexError: there is no such layer.
    """
    family = family_of(model)
    layers = family.parts.encoder_layers(model)
    if not 0 <= layer < len(layers):
        raise IndexError(f"layer {layer}: the model has the layers 0 to {len(layers) - 1}")
    modules = dict(layers[layer].named_modules())
    for writer in family.writers:
        if not isinstance(modules.get(writer), nn.Linear):
            raise UnsupportedModelError(
                f"layer {layer} of the {family.model_type!r} model has no output projection `{writer}`"
            )
    shared = shared_module(layers[layer], family)
    apart = set() if shared is None else {id(parameter) for parameter in shared.parameters()}
    inside = {id(parameter) for parameter in layers[layer].parameters()} - apart
    writing = {id(parameter) for name in family.writers for parameter in modules[name].parameters()}
    zeroed: list[str] = []
    removed: list[str] = []
    kept: list[str] = []
    for name, parameter in model.named_parameters():
        group = kept if id(parameter) not in inside else zeroed if id(parameter) in writing else removed
        group.append(name)
    return Partition(tuple(zeroed), tuple(removed), tuple(kept))
