"""Estimates how much each attention head and each FFN neuron matters, to first order, and keeps those that matter most.

Setting a weight to zero changes the loss by about ``|w * dL/dw|`` (METHODS.md, section 4). The weights of a unit add up
in one of two readings:

* ``gate``: ``mean_b |sum over the unit's columns of W_O of w * dL_b/dw|``, the size of the gradient of a gate on the
  unit (Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 4.1);
* ``weights``: ``sum over all weights of the unit of |w * mean_b dL_b/dw|``.

W_O is the projection of the heads' outputs to the hidden size, or the second matrix of the FFN for neurons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.genotype import FFN_STEP
from nasopt.models.families import encoder_family_of, encoder_shape
from nasopt.models.surgery import cut

Reading: TypeAlias = Literal["gate", "weights"]

LossOfBatch: TypeAlias = Callable[[Any, Any], Tensor]
"""(model, batch) -> scalar."""


@dataclass(frozen=True)
class Saliency:
    """The saliency of the units of each encoder layer that a model has; units with more matter more.

    Attributes:
        heads: the values of each layer's heads, shape (heads of the layer,), float64.
        neurons: the values of each layer's neurons, shape (FFN neurons of the layer,), float64.
    """

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]

    def normalized(self) -> Saliency:
        """Each layer's values divided by their L2 norm, heads and neurons apart; zeros stay zeros."""
        return Saliency(tuple(map(_unit_norm, self.heads)), tuple(map(_unit_norm, self.neurons)))

    def to_tensors(self) -> dict[str, Tensor]:
        """The values as named tensors, for a safetensors file."""
        layers = enumerate(zip(self.heads, self.neurons, strict=True))
        return {f"{name}_{index}": values for index, pair in layers for name, values in zip(_NAMES, pair, strict=True)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Saliency:
        layers = range(len(tensors) // 2)
        heads, neurons = (tuple(tensors[f"{name}_{index}"] for index in layers) for name in _NAMES)
        return cls(heads, neurons)


_NAMES = ("heads", "neurons")


def saliency(
    model: PreTrainedModel,
    batches: Iterable[Any],
    loss_function: LossOfBatch,
    *,
    reading: Reading = "gate",
    device: torch.device | None = None,
) -> Saliency:
    """The saliency of every head and neuron of a full or cut encoder, over some batches.

    The model comes back in eval mode, on `device`, with its weights, gradients and frozen parameters unchanged.

    Args:
        model: a model of a supported family.
        batches: the batches that `loss_function` takes; every one has the same weight.
        loss_function: the task's or the ranking loss, but not one that compares the model with itself as its teacher,
            because the gradient of that is zero.
        reading: `gate` or `weights`, as the module's docstring defines them.
        device: the device to run on; the model's, if None.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
        ValueError: there is no batch, or a gradient is not finite.
    """
    model.to(device or model.device).eval()
    units = _units_of(model)
    parameters = {id(p): p for layer in units for block in layer for p in block.parameters(reading)}
    count = 0
    sums = [[np.zeros(block.count) for block in layer] for layer in units]
    with _gradients_of(model, list(parameters.values())):
        for batch in batches:
            loss_function(model, batch).backward()  # type: ignore[no-untyped-call]
            count += 1
            if reading == "gate":
                for layer, totals in zip(units, sums, strict=True):
                    for block, total in zip(layer, totals, strict=True):
                        total += block.gate()
                for parameter in parameters.values():
                    parameter.grad = None
        if count == 0:
            raise ValueError("saliency needs at least one batch")
        if reading == "weights":
            sums = [[block.weights() for block in layer] for layer in units]
    values = [[torch.from_numpy(total / count) for total in layer] for layer in sums]
    if not all(bool(torch.isfinite(item).all()) for layer in values for item in layer):
        raise ValueError("a gradient is not finite: saliency cannot be told")
    return Saliency(tuple(heads for heads, _ in values), tuple(neurons for _, neurons in values))


@dataclass(frozen=True)
class _Block:
    """The heads, or the neurons, of a layer: `count` units with `size` channels each."""

    outgoing: nn.Linear | None
    incoming: tuple[nn.Linear, ...]
    size: int

    @property
    def count(self) -> int:
        return 0 if self.outgoing is None else self.outgoing.in_features // self.size

    def parameters(self, reading: Reading) -> list[Tensor]:
        if self.outgoing is None:
            return []
        rows = [p for linear in self.incoming for p in linear.parameters()]
        return [self.outgoing.weight, *(rows if reading == "weights" else [])]

    def gate(self) -> np.ndarray[Any, Any]:
        """The values `|sum over W_O's columns of w * dL/dw|`, one for each unit."""
        if self.outgoing is None:
            return np.zeros(0)
        return _per_unit(_first_order(self.outgoing.weight).sum(dim=0), self.size).abs().cpu().numpy()

    def weights(self) -> np.ndarray[Any, Any]:
        """The values `sum |w * sum_b dL_b/dw|` over each unit's rows, their biases and its columns of W_O."""
        if self.outgoing is None:
            return np.zeros(0)
        channels = _first_order(self.outgoing.weight).abs().sum(dim=0)
        for linear in self.incoming:
            for parameter in linear.parameters():
                rows = _first_order(parameter).abs().flatten(start_dim=1) if parameter.ndim > 1 else None
                per_row = _first_order(parameter).abs() if rows is None else rows.sum(dim=1)
                channels = channels + per_row.view(-1, len(channels)).sum(dim=0)  # matrices one below the other
        return _per_unit(channels, self.size).cpu().numpy()


def _units_of(model: PreTrainedModel) -> list[tuple[_Block, _Block]]:
    """The heads and the neurons of each layer that the model has."""
    parts = encoder_family_of(model).parts
    head_size = encoder_shape(model.config).head_size
    blocks = []
    for layer in parts.encoder_layers(model):
        modules = dict(layer.named_modules())
        found = {name: item for name, item in modules.items() if isinstance(item, nn.Linear)}
        heads = _Block(found.get(parts.attention_output), tuple(parts.head_linears(layer).values()), head_size)
        up = found.get(parts.up)
        blocks.append((heads, _Block(found.get(parts.down), () if up is None else (up,), 1)))
    return blocks


def _first_order(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=torch.float64)
    return parameter.detach().double() * parameter.grad.double()


def _per_unit(channels: Tensor, size: int) -> Tensor:
    return channels.view(-1, size).sum(dim=1)


def _unit_norm(values: Tensor) -> Tensor:
    norm = values.norm()
    return values / norm if norm > 0 else values


@contextmanager
def _gradients_of(model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Lets only these parameters get gradients inside the block; afterwards everything is as before."""
    before: list[tuple[Tensor, bool, Tensor | None]] = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
    ]
    try:
        model.requires_grad_(False)
        for parameter, _, _ in before:
            parameter.grad = None
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


Kept: TypeAlias = int | Sequence[int]
"""The number of units to keep: one for all layers together, ranked globally, or one for each layer."""


def keep_salient(values: Saliency, current: Architecture, heads: Kept, neurons: Kept) -> Architecture:
    """The architecture that keeps the units that matter most. It keeps all layers of `current`, some with empty blocks.

    FFN widths are multiples of :data:`FFN_STEP` (or the layer's own): neurons are ranked within their layer, and go in
    blocks of that many, by the blocks' mean saliency. The total is as near to the number asked for as blocks allow.

    Args:
        values: the saliency of the model whose architecture is `current`.
        current: the architecture of that model.
        heads: how many heads to keep; one number for all layers or one for each.
        neurons: how many neurons to keep; one number for all layers or one for each.

    Raises:
        ValueError: more is to be kept than there is.
    """
    owned = [units for units in current.layers if units is not None]
    if len(owned) != len(values.heads):
        raise ValueError(f"`values` tells of {len(values.heads)} layers, but `current` keeps {len(owned)}")
    _check_counts(current, heads, neurons)
    kept_heads = _kept(values.heads, [units.heads for units in owned], heads, 1)
    kept_neurons = _kept(values.neurons, [units.neurons for units in owned], neurons, FFN_STEP)
    units = iter(map(KeptUnits, kept_heads, kept_neurons))
    return replace(current, layers=tuple(None if item is None else next(units) for item in current.layers))


def _kept(scores: Sequence[Tensor], owned: Sequence[tuple[int, ...]], wanted: Kept, step: int) -> list[tuple[int, ...]]:
    """The units that each layer keeps, in the base model's numbering."""
    arrays = [item.numpy() for item in scores]
    if isinstance(wanted, int):
        chosen = _largest(arrays, wanted, step)
    else:
        chosen = [_largest([item], target, step)[0] for item, target in zip(arrays, wanted, strict=True)]
    return [tuple(units[position] for position in positions) for units, positions in zip(owned, chosen, strict=True)]


def _largest(scores: Sequence[np.ndarray[Any, Any]], target: int, step: int) -> list[list[int]]:
    """Positions, ascending, of the units of each layer that are among the best `target` of all, in blocks of `step`."""
    orders = [np.argsort(-values, kind="stable") for values in scores]
    blocks = [
        (-float(scores[layer][order[start : start + step]].mean()), layer, order[start : start + step])
        for layer, order in enumerate(orders)
        for start in range(0, len(order), step)
    ]
    kept: list[list[int]] = [[] for _ in scores]
    total = 0
    for _, layer, positions in sorted(blocks, key=lambda block: block[:2]):
        if abs(total + len(positions) - target) <= abs(total - target):
            kept[layer].extend(positions.tolist())
            total += len(positions)
    return [sorted(positions) for positions in kept]


def random_units(architecture: Architecture, shape: EncoderShape, seed: int) -> Architecture:
    """An architecture with as many heads and neurons in each layer, drawn at random: the control of saliency."""
    rng = np.random.default_rng(seed)

    def draw(available: int, kept: int) -> tuple[int, ...]:
        return tuple(sorted(rng.choice(available, kept, replace=False).tolist()))

    layers = tuple(
        None
        if units is None
        else KeptUnits(draw(shape.num_heads, len(units.heads)), draw(shape.ffn_size, len(units.neurons)))
        for units in architecture.layers
    )
    return replace(architecture, layers=layers)


def prune_iteratively(
    model: PreTrainedModel,
    current: Architecture,
    heads: Kept,
    neurons: Kept,
    rounds: int,
    estimate: Callable[[PreTrainedModel], Saliency],
) -> Architecture:
    """Chooses the units to keep in equal steps, and estimates the saliency of the units that are left before each.

    Args:
        model: the model that `current` describes; not changed.
        current: the architecture of that model.
        heads, neurons: how many to keep in the end; see :func:`keep_salient`.
        rounds: the number of steps, at least 1 (which is :func:`keep_salient` itself).
        estimate: a function from a model to its saliency.

    Raises:
        ValueError: more is to be kept than there is, or there are no rounds.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1, not {rounds}")
    _check_counts(current, heads, neurons)
    smaller = copy.deepcopy(model) if rounds > 1 else model
    for left in range(rounds, 0, -1):
        units = [item for item in current.layers if item is not None]
        step_heads = _towards([len(item.heads) for item in units], heads, left)
        step_neurons = _towards([len(item.neurons) for item in units], neurons, left)
        following = keep_salient(estimate(smaller), current, step_heads, step_neurons)
        if left > 1:
            cut(smaller, following, current)
        current = following
    return current


def _check_counts(current: Architecture, heads: Kept, neurons: Kept) -> None:
    units = [item for item in current.layers if item is not None]
    owned = {"heads": [item.heads for item in units], "neurons": [item.neurons for item in units]}
    for name, wanted in (("heads", heads), ("neurons", neurons)):
        sizes = [len(item) for item in owned[name]]
        pairs = [(wanted, sum(sizes))] if isinstance(wanted, int) else zip(wanted, sizes, strict=True)
        for target, available in pairs:
            if not 0 <= target <= available:
                raise ValueError(f"{name}: {target} of {available} cannot be kept")


def _towards(sizes: Sequence[int], target: Kept, steps: int) -> Kept:
    """The number that the first of `steps` equal steps keeps.

    Blocks of neurons may have made the step before too large; then no more units go.
    """
    if isinstance(target, int):
        return _step(sum(sizes), target, steps)
    return [_step(size, wanted, steps) for size, wanted in zip(sizes, target, strict=True)]


def _step(size: int, target: int, steps: int) -> int:
    return min(size, size + round((target - size) / steps))
