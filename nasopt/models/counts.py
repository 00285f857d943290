"""How many weights a model has, and how many it would have with fewer layers: known before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.models.families import family_of
from nasopt.models.layers import shared_module


@dataclass(frozen=True)
class ParameterCounts:
    """Weights of a model; a tensor that several modules share counts once.

    Attributes:
        layers: of each layer that can be removed.
        rest: of everything else: embeddings, pooler, head; what the layers share; the encoder below a decoder.
    """

    layers: tuple[int, ...]
    rest: int

    def of(self, architecture: Architecture) -> int:
        """Weights of the model that keeps these layers, whole."""
        return self.rest + sum(self.layers[layer] for layer in architecture.kept_layers)

    @property
    def smallest(self) -> int:
        """Weights of the smallest model with one layer."""
        return self.rest + min(self.layers)


def count_parameters(model: PreTrainedModel) -> ParameterCounts:
    """Counts the weights of a model; one on torch's device `meta` will do."""
    family = family_of(model)
    layers = family.parts.encoder_layers(model)
    counts = tuple(_count(layer) - _count(shared_module(layer, family)) for layer in layers)
    return ParameterCounts(counts, _count(model) - sum(counts))


def _count(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(parameter.numel() for parameter in module.parameters())
