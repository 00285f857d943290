"""Saliency against brute force, finite differences, a gate made by hand, and torch-pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch_pruning
from cases import crossed
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.families import FAMILIES
from nasopt.models.saliency import Saliency, keep_salient, prune_iteratively, random_units, saliency
from nasopt.models.surgery import cut

HEAD_SIZE = 8
LAYERS, HEADS, FFN = 3, 4, 128
SHAPE = EncoderShape(LAYERS, HEADS, FFN, 32)


def loss(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    logits = model(**inputs).logits
    return functional.cross_entropy(logits, torch.arange(len(logits)) % 2)


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, 100, (4, 7), generator=generator) for _ in range(3)]
    return [{"input_ids": item, "attention_mask": torch.ones_like(item)} for item in ids]


def outputs_of(model: PreTrainedModel, block: str) -> list[torch.nn.Linear]:
    name = "attention.output.dense" if block == "heads" else "output.dense"
    return [layer.get_submodule(name) for layer in model.bert.encoder.layer]


def scaled(model: PreTrainedModel, block: str, layer: int, unit: int, gate: float) -> PreTrainedModel:
    """A copy whose unit's output is multiplied by a gate."""
    result = copy.deepcopy(model)
    size = HEAD_SIZE if block == "heads" else 1
    with torch.no_grad():
        outputs_of(result, block)[layer].weight[:, unit * size : (unit + 1) * size] *= gate
    return result


@pytest.mark.parametrize("block", ["heads", "neurons"])
def test_gate_is_the_mean_size_of_the_derivative_of_a_gate(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]], block: str
) -> None:
    model = make_model("bert").double()
    found = getattr(saliency(model, batches, loss), block)
    step = 1e-5
    for layer, unit in ((0, 0), (1, 3), (2, 2)):
        up, down = (scaled(model, block, layer, unit, 1 + sign * step) for sign in (1, -1))
        with torch.no_grad():
            slopes = [float(loss(up, batch) - loss(down, batch)) / (2 * step) for batch in batches]
        assert float(found[layer][unit]) == pytest.approx(np.abs(slopes).mean(), rel=1e-4, abs=1e-9)


def test_gate_ranks_heads_as_removing_each_does(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]]
) -> None:
    model = make_model("bert")
    found = torch.cat(saliency(model, batches[:1], loss).heads)
    with torch.no_grad():
        before = float(loss(model, batches[0]))
        changes = [
            abs(float(loss(scaled(model, "heads", layer, head, 0.0), batches[0])) - before)
            for layer in range(LAYERS)
            for head in range(HEADS)
        ]
    assert spearmanr(found.numpy(), changes).statistic > 0.5


def test_weights_add_up_all_weights_of_a_unit(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]]
) -> None:
    model = make_model("bert").double()
    found = saliency(model, batches, loss, reading="weights")
    mean = sum(loss(model, batch) for batch in batches) / len(batches)
    mean.backward()
    layer = model.bert.encoder.layer[1]

    def terms(parameter: Tensor) -> Tensor:
        return (parameter * parameter.grad).abs().detach()

    rows = slice(2 * HEAD_SIZE, 3 * HEAD_SIZE)
    attention = layer.attention.self
    expected = terms(layer.attention.output.dense.weight)[:, rows].sum()
    for linear in (attention.query, attention.key, attention.value):
        expected = expected + terms(linear.weight)[rows].sum() + terms(linear.bias)[rows].sum()
    assert float(found.heads[1][2]) == pytest.approx(float(expected), rel=1e-9)
    up, down = layer.intermediate.dense, layer.output.dense
    neuron = terms(down.weight)[:, 5].sum() + terms(up.weight)[5].sum() + terms(up.bias)[5]
    assert float(found.neurons[1][5]) == pytest.approx(float(neuron), rel=1e-9)


def test_weights_agree_with_torch_pruning(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]]
) -> None:
    """GroupTaylorImportance reads accumulated gradients, as `weights` does; without its normalisation they are equal.

    It is told of biases too, but those of an output projection belong to no unit.
    """
    model = make_model("bert")
    found = saliency(model, batches, loss, reading="weights")
    for batch in batches:
        (loss(model, batch) / len(batches)).backward()
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=batches[0])
    importance = torch_pruning.importance.GroupTaylorImportance(
        group_reduction="sum", normalizer=None, multivariable=False, bias=True
    )
    for index, layer in enumerate(model.bert.encoder.layer):
        for linear, values, size in (
            (layer.attention.self.query, found.heads[index], HEAD_SIZE),
            (layer.intermediate.dense, found.neurons[index], 1),
        ):
            every = list(range(linear.out_features))
            channels = importance(graph.get_pruning_group(linear, torch_pruning.prune_linear_out_channels, every))
            torch.testing.assert_close(channels.view(-1, size).sum(dim=1).double(), values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("family", "reading"), crossed(sorted(FAMILIES), ["gate", "weights"], usual=("bert", "gate")))
def test_every_family_full_and_cut(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]], family: str, reading: str
) -> None:
    model = make_model(family)
    full = saliency(model, batches, loss, reading=reading)
    assert [len(heads) for heads in full.heads] == [HEADS] * LAYERS
    assert [len(neurons) for neurons in full.neurons] == [FFN] * LAYERS
    assert all(bool((values > 0).any()) for values in (*full.heads, *full.neurons))
    target = Architecture((KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((), ())))
    smaller = saliency(cut(model, target), batches, loss, reading=reading)
    assert [len(heads) for heads in smaller.heads] == [2, 0]
    assert [len(neurons) for neurons in smaller.neurons] == [64, 0]


def test_model_is_as_before(make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]]) -> None:
    model = make_model("bert")
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    saliency(model, batches, loss)
    assert all(bool((before[name] == value).all()) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p is frozen for p in model.parameters() if not p.requires_grad] == [True]


def test_no_batch_and_a_loss_that_is_not_finite(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]]
) -> None:
    model = make_model("bert")
    with pytest.raises(ValueError, match="at least one batch"):
        saliency(model, [], loss)
    with pytest.raises(ValueError, match="not finite"):
        saliency(model, batches, lambda model, batch: loss(model, batch) * torch.inf)


def values_of(heads: list[list[float]], neurons: list[list[float]]) -> Saliency:
    return Saliency(
        tuple(torch.tensor(item, dtype=torch.float64) for item in heads),
        tuple(torch.tensor(item, dtype=torch.float64) for item in neurons),
    )


def test_global_ranking_and_ranking_by_layer() -> None:
    shape = EncoderShape(2, 3, 192, 48)
    first = [1.0] * 64 + [5.0] * 64 + [0.0] * 64
    second = [4.0] * 64 + [3.0] * 64 + [2.0] * 64
    values = values_of([[0.1, 0.9, 0.8], [0.2, 0.0, 0.3]], [first, second])
    full = Architecture.full(shape)
    everywhere = keep_salient(values, full, 3, 250)
    assert [units.heads for units in everywhere.layers if units] == [(1, 2), (2,)]
    # 250 is nearest to 4 blocks of 64: those of 5, 4, 3 and 2.
    assert [units.neurons for units in everywhere.layers if units] == [tuple(range(64, 128)), tuple(range(192))]
    by_layer = keep_salient(values, full, [1, 0], [64, 64])
    assert [units.heads for units in by_layer.layers if units] == [(1,), ()]
    assert [units.neurons for units in by_layer.layers if units] == [tuple(range(64, 128)), tuple(range(64))]
    with pytest.raises(ValueError, match="7 of 6"):
        keep_salient(values, full, 7, 64)
    # Of the layer's own norm the second layer's best head is worth more than the first one's.
    assert keep_salient(values.normalized(), full, 1, 64).layers[1].heads == (2,)  # type: ignore[union-attr]


def test_units_of_a_cut_model_keep_the_base_models_numbers() -> None:
    current = Architecture((None, KeptUnits((1, 3), tuple(range(64, 192)))))
    values = values_of([[0.0, 1.0]], [[0.0] * 64 + [1.0] * 64])
    kept = keep_salient(values, current, 1, 64)
    assert kept.layers == (None, KeptUnits((3,), tuple(range(128, 192))))


def test_random_units_have_equal_counts() -> None:
    chosen = Architecture((KeptUnits((0, 1), tuple(range(64))), None, KeptUnits((), tuple(range(128)))))
    drawn = random_units(chosen, SHAPE, seed=1)
    assert drawn.to_params() == chosen.to_params()
    assert drawn != chosen
    assert drawn == random_units(chosen, SHAPE, seed=1) != random_units(chosen, SHAPE, seed=2)
    assert Architecture.full(SHAPE).contains(drawn)


def test_iterative_pruning_looks_again_at_what_is_left(
    make_model: Callable[..., PreTrainedModel], batches: list[dict[str, Tensor]]
) -> None:
    model = make_model("bert")
    seen: list[list[int]] = []

    def estimate(smaller: PreTrainedModel) -> Saliency:
        values = saliency(smaller, batches, loss)
        seen.append([len(heads) for heads in values.heads])
        return values

    full = Architecture.full(SHAPE)
    kept = prune_iteratively(model, full, 4, 192, 3, estimate)
    assert [sum(heads) for heads in seen] == [12, 9, 7]  # 12 - 8/3, 12 - 16/3
    assert sum(len(units.heads) for units in kept.layers if units) == 4
    assert sum(len(units.neurons) for units in kept.layers if units) == 192
    once = prune_iteratively(model, full, 4, 192, 1, estimate)
    assert once == keep_salient(saliency(model, batches, loss), full, 4, 192)
    by_layer = prune_iteratively(model, full, [2, 0, 4], [64, 128, 0], 2, estimate)
    assert [len(units.heads) for units in by_layer.layers if units] == [2, 0, 4]
    assert saliency(cut(model, by_layer), batches, loss).heads[1].shape == (0,)
