"""Whole layers of a model: removing them, and which of a layer's weights do what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from nasopt.errors import UnsupportedModelError
from nasopt.models.families import Family, family_of


def keep_layers(model: PreTrainedModel, family: Family, positions: Sequence[int]) -> nn.ModuleList:
    """Drops, in place, the other layers, and everything that counts or numbers them follows.

    Args:
        model: of the family.
        family: where its layers are; the decoder's, if it has one.
        positions: of the layers that stay, among those that the model has now, ascending.

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
    """What a layer holds for those after it too (T5's relative-attention bias, in the first block)."""
    return dict(layer.named_modules()).get(family.shared) if family.shared else None


def _hand_over(old: nn.Module, new: nn.Module, family: Family) -> None:
    """Moves what all layers share to the layer that becomes the first one."""
    shared = shared_module(old, family)
    if shared is None or old is new or family.shared is None:
        return
    holder, _, name = family.shared.rpartition(".")
    new.get_submodule(holder).add_module(name, shared)
    new.get_submodule(holder).has_relative_attention_bias = True  # type: ignore[assignment]


@dataclass(frozen=True)
class Partition:
    """The weights of a model, by what removing one layer does to them (METHODS.md, section 5).

    Attributes:
        zeroed: xi_1, what the layer writes to the residual stream: weights and biases of its output projections.
        removed: xi_2, all else of the layer.
        kept: v.
    """

    zeroed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


def partition(model: PreTrainedModel, layer: int) -> Partition:
    """Splits the names of a model's parameters; tied ones have one name.

    Args:
        model: of a supported family.
        layer: position of the layer that is to go, of the decoder if there is one.

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
