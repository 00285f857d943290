"""Makes models physically smaller, and full-size again: encoders by layers, heads and neurons, decoders by layers.

Cutting goes through torch-pruning's dependency graph where the graph understands the model: it finds out itself that a
head of the query projection belongs to rows of the key and value projections and to columns of the output projection.
The graph is cheap: on MiniLM (6 layers, hidden size 384) with one thread it took 17 ms to trace (130 ms the first time
in a process) and under 1 ms per group. Where the graph does not understand the model (a bias that layers share, a
matrix that holds several projections; see :class:`nasopt.models.families.Family`) weights are gathered by the same
table of places (:mod:`nasopt.models.places`) that :func:`expand` scatters them with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch_pruning
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.errors import CheckpointError, NasoptError, UnsupportedModelError
from nasopt.models.families import Family, encoder_shape, family_of
from nasopt.models.layers import keep_layers
from nasopt.models.modeling_nasopt import LayerParts, NoAttention, OutputBias, note_heads, remove_attention, remove_ffn
from nasopt.models.places import Place, channels, unit_places, weight_places
from nasopt.models.vocabulary import cut_embeddings

Block: TypeAlias = Literal["heads", "ffn"]

UnitSelector: TypeAlias = Callable[[nn.Module, int, Block, tuple[int, ...], int], Sequence[int]]
"""(full-size model, layer, block, candidates, keep) -> the `keep` candidates that stay.

`candidates` are indices of heads or of FFN neurons in the base model's numbering, ascending."""


_Shrinking: TypeAlias = tuple[nn.Module, KeptUnits, KeptUnits]
"""A layer with its units before and after."""


def cut(model: PreTrainedModel, target: Architecture, current: Architecture | None = None) -> PreTrainedModel:
    """Removes, in place, the layers, heads, FFN neurons and tokens that `target` does not keep.

    The cut is exact: the outputs are those of the model with the removed units masked; tokens get new numbers. The
    configuration's numbers of layers and tokens are updated; a standard configuration has no place for the sizes of
    pruned layers (see :mod:`nasopt.export`).

    Args:
        model: a model of a supported family, with any head.
        target: the architecture to cut to; its precision does not matter.
        current: the architecture that the model has now; None for the full base model.

    Raises:
        UnsupportedModelError: the model cannot be cut, or it is a decoder's heads or neurons that are to go.
        ValueError: `target` keeps something that `current` does not have, or no layer at all.
    """
    family, shape = family_of(model), encoder_shape(model.config)
    parts = family.parts
    current = current or Architecture.full(shape)
    if not target.kept_layers:
        raise ValueError("`target` must keep at least one layer")
    if not current.contains(target):
        raise ValueError("`target` keeps layers, heads, neurons or tokens that `current` does not have")
    if family.is_encoder_decoder:
        _refuse_parts(family, target, current)
    if target.vocabulary is not None and target.vocabulary != current.vocabulary:
        cut_embeddings(model, _token_positions(target.vocabulary, current.vocabulary))
    layers = keep_layers(
        model, family, [place for place, layer in enumerate(current.kept_layers) if target.layers[layer] is not None]
    )
    blocks = [
        (layer, _units(current, index), _units(target, index))
        for layer, index in zip(layers, target.kept_layers, strict=True)
    ]
    _empty_blocks(blocks, parts)
    shrinking = [block for block in blocks if block[1] != block[2]]
    if shrinking:
        # What has shapes only (see :mod:`nasopt.models.slicing`) cannot be traced.
        is_traceable = family.is_traceable and model.device.type != "meta"
        slice_units = _prune_units if is_traceable else _gather_units
        slice_units(model, shrinking, parts, shape.head_size)
    for layer, before, after in shrinking:
        if after.heads and after.heads != before.heads:
            note_heads(layer, parts, after.heads, shape.head_size)
    return model


def expand(base_model: PreTrainedModel, weights: Mapping[str, Tensor], architecture: Architecture) -> PreTrainedModel:
    """A full-size copy of the base model with the weights of a smaller one in their places.

    Layers, heads and neurons that the smaller model lacks have the base model's weights; cutting the result to
    `architecture` gives the smaller model back, bit for bit. So `cut(expand(base, parent_weights, parent), child)`
    inherits from the parent and restores from the base what the parent lacks.

    Args:
        base_model: the full-size model; not changed.
        weights: the state dict of a model that was cut out of it.
        architecture: the architecture of that model.

    Raises:
        CheckpointError: the weights are not those of such a model.
    """
    model = copy.deepcopy(base_model)
    destinations = model.state_dict()  # shares memory with the parameters
    places = weight_places(model, architecture)
    wrong = sorted(set(places) ^ set(weights))
    if wrong:
        problem = "is missing" if wrong[0] in places else "has no place in the base model"
        raise CheckpointError(f"the weights are not those of their architecture: {wrong[0]} {problem}")
    for name, place in places.items():
        destination, source = destinations[place.name], weights[name]
        expected = place.shape_in(destination)
        if source.shape != expected:
            raise CheckpointError(f"the weight {name} has the shape {tuple(source.shape)}, not {tuple(expected)}")
        place.write(destination, source.to(destination))
    return model


def choose_units(
    model: PreTrainedModel, parent: Architecture, params: Mapping[str, Any], select: UnitSelector
) -> Architecture:
    """The architecture of a child: chooses the heads and neurons that it keeps, given how many.

    A block that shrinks keeps some of the parent's units; one that grows keeps all of them and takes back some of
    those the parent lacks; in a layer that the parent lacks all of the base model's units are candidates.

    Args:
        model: the parent's weights in full size (see :func:`expand`).
        parent: the architecture of the parent.
        params: the child's genotype: ``layer_<i>``, ``heads_<i>``, ``ffn_<i>``, ``precision``. Counts of removed
            layers do not matter.
        select: chooses the units that stay; called only where there is a choice.

    Raises:
        NasoptError: `select` did not return `keep` different candidates.
        ValueError: the genotype keeps no layer.
    """
    shape = encoder_shape(model.config)
    layers: list[KeptUnits | None] = []
    for layer, units in enumerate(parent.layers):
        if not params[f"layer_{layer}"]:
            layers.append(None)
            continue
        owned = units or KeptUnits((), ())
        heads = _choose(model, layer, "heads", owned.heads, shape.num_heads, params[f"heads_{layer}"], select)
        neurons = _choose(model, layer, "ffn", owned.neurons, shape.ffn_size, params[f"ffn_{layer}"], select)
        layers.append(KeptUnits(heads, neurons))
    if all(item is None for item in layers):
        raise ValueError("`params` must keep at least one layer")
    return Architecture(tuple(layers), params["precision"], parent.vocabulary)


def keep_largest(model: nn.Module, layer: int, block: Block, candidates: tuple[int, ...], keep: int) -> tuple[int, ...]:
    """The units with the largest weights, by the L2 norm of all weights that are cut with the unit, biases included."""
    assert isinstance(model, PreTrainedModel)
    parts = family_of(model).parts
    module = parts.encoder_layers(model)[layer]
    if block == "heads":
        incoming = parts.head_linears(module)
        outgoing, size = parts.attention_output, encoder_shape(model.config).head_size
    else:
        incoming, outgoing, size = {parts.up: _linear(module, parts.up)}, parts.down, 1
    squares = _linear(module, outgoing).weight.detach().square().sum(dim=0)  # one per head channel or neuron
    for linear in incoming.values():
        rows = linear.weight.detach().square().sum(dim=1)
        if linear.bias is not None:
            rows = rows + linear.bias.detach().square()
        squares = squares + rows.view(-1, len(squares)).sum(dim=0)  # matrices one below the other
    scores = squares.view(-1, size).sum(dim=1).tolist()
    return tuple(sorted(candidates, key=lambda unit: (-scores[unit], unit))[:keep])


def keep_first(model: nn.Module, layer: int, block: Block, candidates: tuple[int, ...], keep: int) -> tuple[int, ...]:
    """The first units, as in the published mutation, which prunes the last heads."""
    return candidates[:keep]


def layer_counts(model: PreTrainedModel) -> tuple[list[int], list[int]]:
    """The numbers of heads and of FFN neurons of each layer of a model, whether it was cut or not."""
    family, shape = family_of(model), encoder_shape(model.config)
    parts, head_size = family.parts, shape.head_size
    if family.is_encoder_decoder:  # whole layers only
        return [shape.num_heads] * shape.num_layers, [shape.ffn_size] * shape.num_layers
    heads, neurons = [], []
    for layer in parts.encoder_layers(model):
        empty = isinstance(layer.get_submodule(parts.attention), NoAttention)
        heads.append(0 if empty else _linear(layer, parts.attention_output).in_features // head_size)
        empty = isinstance(layer.get_submodule(parts.up), nn.Identity)
        neurons.append(0 if empty else _linear(layer, parts.down).in_features)
    return heads, neurons


def _refuse_parts(family: Family, target: Architecture, current: Architecture) -> None:
    for layer in target.kept_layers:
        if target.layers[layer] != current.layers[layer]:
            raise UnsupportedModelError(
                f"layer {layer} would lose heads or neurons, but decoder layers of the type {family.model_type!r} can "
                "only be removed whole"
            )


def _token_positions(wanted: Sequence[int], owned: Sequence[int] | None) -> Sequence[int]:
    """The numbers that tokens of the base model have in a model that has `owned` ones (None for all)."""
    if owned is None:
        return wanted
    numbers = {token: number for number, token in enumerate(owned)}
    return [numbers[token] for token in wanted]


def _units(architecture: Architecture, index: int) -> KeptUnits:
    units = architecture.layers[index]
    assert units is not None
    return units


def _empty_blocks(blocks: list[_Shrinking], parts: LayerParts) -> None:
    for layer, before, after in blocks:
        if before.heads and not after.heads:
            remove_attention(layer, parts)
        if before.neurons and not after.neurons:
            remove_ffn(layer, parts)


def _prune_units(model: PreTrainedModel, blocks: list[_Shrinking], parts: LayerParts, head_size: int) -> None:
    """Slices the weights of blocks that lose some of their units, but not all, through the dependency graph."""
    with _traceable(model):
        tokens = torch.zeros((1, 2), dtype=torch.long, device=model.device)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        biases = [(module.bias, 0) for module in model.modules() if isinstance(module, OutputBias)]
        graph = torch_pruning.DependencyGraph().build_dependency(
            model, example_inputs=inputs, unwrapped_parameters=biases
        )
        for layer, before, after in blocks:
            heads = _positions_gone(before.heads, after.heads)
            if heads:
                _prune(graph, layer.get_submodule(parts.projections[0]), channels(heads, head_size).tolist())
            neurons = _positions_gone(before.neurons, after.neurons)
            if neurons:
                _prune(graph, layer.get_submodule(parts.up), neurons)


def _gather_units(model: PreTrainedModel, blocks: list[_Shrinking], parts: LayerParts, head_size: int) -> None:
    """Does the same as :func:`_prune_units` without the graph, by positions among the units that a block has now."""
    with torch.inference_mode(False), torch.no_grad():
        for layer, before, after in blocks:
            positions = KeptUnits(
                tuple(before.heads.index(head) for head in after.heads),
                tuple(before.neurons.index(neuron) for neuron in after.neurons),
            )
            for name, place in unit_places(layer, parts, positions, head_size).items():
                if place is not None:
                    _keep(layer.get_parameter(name), place)
            for linear in (module for module in layer.modules() if isinstance(module, nn.Linear)):
                linear.out_features, linear.in_features = linear.weight.shape


def _keep(parameter: nn.Parameter, place: Place) -> None:
    parameter.grad = None
    parameter.data = place.read(parameter.data)


def _prune(graph: Any, linear: nn.Module, channels: list[int]) -> None:
    graph.get_pruning_group(linear, torch_pruning.prune_linear_out_channels, channels).prune()


def _positions_gone(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """The positions of the units that go, among those that a block has now; empty for a block that goes altogether."""
    stay = set(after)
    return [position for position, unit in enumerate(before) if unit not in stay] if after else []


@contextmanager
def _traceable(model: PreTrainedModel) -> Iterator[None]:
    """Turns off dropout and unfreezes all parameters inside the block.

    torch-pruning reads its graph off the gradient functions of one forward pass.
    """
    training = model.training
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    try:
        model.eval().requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        model.train(training)
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)


def _choose(
    model: PreTrainedModel,
    layer: int,
    block: Block,
    owned: tuple[int, ...],
    available: int,
    count: int,
    select: UnitSelector,
) -> tuple[int, ...]:
    if not 0 <= count <= available:
        raise ValueError(f"layer {layer}: {block} must be between 0 and {available}, not {count}")
    if count <= len(owned):
        return _selected(model, layer, block, owned, count, select)
    missing = tuple(sorted(set(range(available)) - set(owned)))
    return tuple(sorted((*owned, *_selected(model, layer, block, missing, count - len(owned), select))))


def _selected(
    model: PreTrainedModel, layer: int, block: Block, candidates: tuple[int, ...], keep: int, select: UnitSelector
) -> tuple[int, ...]:
    """The units that `select`, which is a user's function, returns; they are checked."""
    if keep in (0, len(candidates)):
        return candidates[:keep]
    chosen = [int(unit) for unit in select(model, layer, block, candidates, keep)]
    if len(chosen) != keep or len(set(chosen)) != keep or not set(chosen) <= set(candidates):
        name = getattr(select, "__name__", repr(select))
        raise NasoptError(
            f"the pruning function {name} must return {keep} different ones of the {len(candidates)} {block} it was "
            f"given for layer {layer}, but returned {len(chosen)}: {str(chosen)[:80]}"
        )
    return tuple(sorted(chosen))


def _linear(layer: nn.Module, name: str) -> nn.Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module
