"""Counts the weights of a model, and those it would have with fewer layers, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.models.families import family_of
from nasopt.models.layers import shared_module


@dataclass(frozen=True)
class ParameterCounts:
    """The numbers of a model's weights; a tensor that several modules share counts once.

    Attributes:
        layers: the number of weights of each layer that can be removed.
        rest: the number of all others: embeddings, pooler, head, modules that layers share, the encoder of a decoder.
    """

    layers: tuple[int, ...]
    rest: int

    def of(self, architecture: Architecture) -> int:
        """The number of weights of the model that keeps an architecture's layers, each of them whole."""
        return self.rest + sum(self.layers[layer] for layer in architecture.kept_layers)

    @property
    def smallest(self) -> int:
        """The number of weights of the smallest model with one layer."""
        return self.rest + min(self.layers)


def count_parameters(model: PreTrainedModel) -> ParameterCounts:
    """Counts the weights of a model, which may be on torch's device `meta`."""
    family = family_of(model)
    layers = family.parts.encoder_layers(model)
    counts = tuple(_count(layer) - _count(shared_module(layer, family)) for layer in layers)
    return ParameterCounts(counts, _count(model) - sum(counts))


def _count(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(parameter.numel() for parameter in module.parameters())
