"""Gates on attention heads and FFN neurons, without changing the model.

A gate multiplies a unit's input to its block's output projection: a head's channels of the input of the attention's
projection, or a neuron's activation. A gate of 1 changes nothing, a gate of 0 removes the unit. Gates live in hooks
that are removed after the block of the context manager.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.models.families import encoder_family_of, encoder_shape


@dataclass(frozen=True)
class UnitBlock:
    """The heads, or the neurons, of one layer.

    Attributes:
        projection: the block's output projection, which reads the units; None where the block is empty.
        size: the number of the projection's columns that belong to one unit: the size of a head, 1 for neurons.
    """

    projection: nn.Linear | None
    size: int

    @property
    def count(self) -> int:
        """The number of heads or neurons that the layer has now."""
        return 0 if self.projection is None else self.projection.in_features // self.size


class LayerBlocks(NamedTuple):
    """The two blocks of a layer."""

    heads: UnitBlock
    neurons: UnitBlock


def unit_blocks(model: PreTrainedModel) -> list[LayerBlocks]:
    """The blocks of each layer that the model has, full or cut.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
    """
    parts = encoder_family_of(model).parts
    head_size = encoder_shape(model.config).head_size
    blocks = []
    for layer in parts.encoder_layers(model):
        modules = dict(layer.named_modules())
        heads, neurons = (
            module if isinstance(module := modules.get(name), nn.Linear) else None
            for name in (parts.attention_output, parts.down)
        )
        blocks.append(LayerBlocks(UnitBlock(heads, head_size), UnitBlock(neurons, 1)))
    return blocks


@contextmanager
def gated(model: PreTrainedModel, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> Iterator[None]:
    """Multiplies every unit by its gate in all passes of the model inside the block.

    Args:
        model: a model of a supported family, full or cut.
        heads: the gates of each layer's heads, shape (heads,), or (batch, heads) if each example has its own.
        neurons: the gates of each layer's neurons, shape (neurons,) or (batch, neurons).

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
        ValueError: a layer does not have as many gates as units.
    """
    with ExitStack() as hooks:
        for layer, *gates in zip(unit_blocks(model), heads, neurons, strict=True):
            for block, gate in zip(layer, gates, strict=True):
                if gate.shape[-1] != block.count:
                    raise ValueError(f"there are {gate.shape[-1]} gates for {block.count} units")
                if block.projection is not None:
                    hook = _Multiplier(gate, block.size)
                    hooks.callback(block.projection.register_forward_pre_hook(hook).remove)
        yield


@dataclass(frozen=True)
class _Multiplier:
    """Pre-hook of an output projection that applies gates."""

    gate: Tensor
    size: int

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs = given[0]  # (batch, tokens, channels)
        channels = self.gate.repeat_interleave(self.size, dim=-1)
        if channels.ndim == 2:
            channels = channels[:, None, :]  # (batch, 1, channels)
        return (inputs * channels.to(inputs), *given[1:])


class GateGradients:
    """Collects `dL_n / dm_u` of all examples n of a batch and all units u while a loss is differentiated.

    The derivative at gates of 1 is the sum, over the tokens of the example and the channels of the unit, of the
    projection's input times its gradient, so that one backward pass serves all examples: rows of a batch do not mix.
    """

    def __init__(self, layers: Sequence[LayerBlocks]) -> None:
        self._recorders = [tuple(_Recorder(block) for block in layer) for layer in layers]

    @property
    def recorders(self) -> list[_Recorder]:
        return [recorder for layer in self._recorders for recorder in layer]

    def take(self) -> list[tuple[Tensor, Tensor]]:
        """The derivatives since the last call, of heads and of neurons, (batch, units) each; one pair for each layer.

        If the loss is a mean over a batch, they are the derivatives of each example's loss divided by the size of the
        batch. Passes over several texts of one example add up.
        """
        return [(heads.take(), neurons.take()) for heads, neurons in self._recorders]


class _Recorder:
    """Pre-hook of an output projection that records how the loss depends on each unit."""

    def __init__(self, block: UnitBlock) -> None:
        self.block = block
        self._sums: Tensor | None = None

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs = given[0]
        if not inputs.requires_grad:
            inputs = inputs.detach().requires_grad_()
        inputs = inputs.view_as(inputs)  # another reader of the same tensor has its own gradient
        values, dtype = inputs.detach(), torch.promote_types(inputs.dtype, torch.float32)

        def note(gradient: Tensor) -> None:
            channels = torch.einsum("btc,btc->bc", values.to(dtype), gradient.to(dtype))
            units = channels.view(len(channels), self.block.count, self.block.size).sum(dim=-1)
            self._sums = units if self._sums is None else self._sums + units

        inputs.register_hook(note)
        return (inputs, *given[1:])

    def take(self) -> Tensor:
        sums, self._sums = self._sums, None
        return torch.zeros((0, self.block.count)) if sums is None else sums


@contextmanager
def gate_gradients(model: PreTrainedModel) -> Iterator[GateGradients]:
    """Inside the block, differentiating a loss of the model records the derivatives by all gates, and nothing else.

    The weights get no gradients; after the block the same weights are frozen as before.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
    """
    gradients = GateGradients(unit_blocks(model))
    with ExitStack() as hooks:
        for recorder in gradients.recorders:
            if recorder.block.projection is not None:
                hooks.callback(recorder.block.projection.register_forward_pre_hook(recorder).remove)
        with only_activations(model):
            yield gradients


@contextmanager
def only_activations(model: nn.Module) -> Iterator[None]:
    """Inside the block a loss is differentiated by activations that hooks ask for, and by no weight."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
