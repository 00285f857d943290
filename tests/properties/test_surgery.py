"""Any architecture that is cut, in one step or two, computes what the full model computes with the rest masked."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from cases import mostly_slow
from hypothesis import assume, given, settings
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from nasopt.architecture.artifacts import TORCH_PRECISIONS
from nasopt.architecture.base import EncoderShape, Precision
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.genotype import FFN_STEP
from nasopt.measurement.measured.memory import memory_mb
from nasopt.models.quantization import quantize, stored_tensors
from nasopt.models.surgery import cut, layer_counts

pytestmark = pytest.mark.integration

SHAPE = EncoderShape(num_layers=3, num_heads=4, ffn_size=40, hidden_size=32)
# In each family: the encoder's layers, what receives the heads' outputs, what receives the neurons'.
PATHS = {
    "bert": ("bert.encoder.layer", "attention.output.dense", "output.dense"),
    "distilbert": ("distilbert.transformer.layer", "attention.out_lin", "ffn.lin2"),
}


def make_model(family: str, shape: EncoderShape) -> PreTrainedModel:
    """A classifier in eval mode whose every weight is random, biases and layer norms included."""
    sizes: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "bert":
            sizes |= {"hidden_size": shape.hidden_size, "num_hidden_layers": shape.num_layers}
            sizes |= {"num_attention_heads": shape.num_heads, "intermediate_size": shape.ffn_size}
            model: PreTrainedModel = BertForSequenceClassification(BertConfig(**sizes))
        else:
            sizes |= {"dim": shape.hidden_size, "n_layers": shape.num_layers}
            sizes |= {"n_heads": shape.num_heads, "hidden_dim": shape.ffn_size}
            model = DistilBertForSequenceClassification(DistilBertConfig(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


BASES = {family: make_model(family, SHAPE) for family in PATHS}


def subsets(units: tuple[int, ...], step: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    """Some of the units, ascending; a multiple of `step`."""
    drawn = st.sets(st.sampled_from(units)) if units else st.just(set())
    return drawn.map(lambda chosen: tuple(sorted(chosen))[: len(chosen) // step * step])


def parts_of(whole: Architecture, step: int = 1) -> st.SearchStrategy[Architecture]:
    """Architectures that can be cut out of `whole`; FFN widths are multiples of `step`."""

    def layer(units: KeptUnits | None) -> st.SearchStrategy[KeptUnits | None]:
        if units is None:
            return st.none()
        return st.none() | st.builds(KeptUnits, subsets(units.heads), subsets(units.neurons, step))

    layers = st.tuples(*map(layer, whole.layers)).filter(any)
    return layers.map(lambda kept: Architecture(kept, whole.precision))


@st.composite
def two_cuts(draw: st.DrawFn) -> tuple[Architecture, Architecture]:
    first = draw(parts_of(Architecture.full(SHAPE)))
    return first, draw(parts_of(first))


@st.composite
def batches(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Up to three texts of up to 6 tokens, padded."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    ids = torch.randint(1, 50, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def masked_logits(family: str, kept: Architecture, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the full model in which nothing is cut: masks silence units, removed layers hand on their input."""
    model = copy.deepcopy(BASES[family])
    path, attention, feed_forward = PATHS[family]

    def silence(linear: nn.Module, channels: list[int]) -> None:
        mask = torch.zeros(linear.in_features)
        mask[channels] = 1
        linear.register_forward_pre_hook(lambda module, args: (args[0] * mask, *args[1:]))

    for layer, units in zip(model.get_submodule(path), kept.layers, strict=True):
        if units is None:
            layer.register_forward_hook(lambda module, args, output: args[0])
            continue
        size = SHAPE.head_size
        silence(layer.get_submodule(attention), [head * size + i for head in units.heads for i in range(size)])
        silence(layer.get_submodule(feed_forward), list(units.neurons))
    return logits(model, batch)


def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch).logits


def check(family: str, model: PreTrainedModel, kept: Architecture, batch: dict[str, torch.Tensor]) -> None:
    """Same outputs as masked, and really smaller."""
    assert (logits(model, batch) - masked_logits(family, kept, batch)).abs().max() < 1e-5
    layers = [units for units in kept.layers if units is not None]
    assert layer_counts(model) == ([len(units.heads) for units in layers], [len(units.neurons) for units in layers])
    head, neuron = 4 * SHAPE.hidden_size * SHAPE.head_size, 2 * SHAPE.hidden_size  # weights of one
    gone = sum(
        (SHAPE.num_heads - len(units.heads)) * head + (SHAPE.ffn_size - len(units.neurons)) * neuron for units in layers
    )
    assert model.num_parameters() <= BASES[family].num_parameters() - gone


@pytest.mark.parametrize("family", mostly_slow(PATHS, ("bert", "deberta-v2")))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(cuts=two_cuts(), batch=batches())
def test_what_is_cut_is_what_would_be_masked(
    family: str, cuts: tuple[Architecture, Architecture], batch: dict[str, torch.Tensor]
) -> None:
    first, second = cuts
    model = cut(copy.deepcopy(BASES[family]), first)
    check(family, model, first, batch)
    check(family, cut(model, second, first), second, batch)


# Heads as large as most models have them: int4 can store every layer, however many heads are left.
WIDE = EncoderShape(num_layers=2, num_heads=4, ffn_size=4 * FFN_STEP, hidden_size=4 * FFN_STEP)
WIDE_MODEL = make_model("bert", WIDE)


@st.composite
def removals(draw: st.DrawFn) -> tuple[Architecture, Architecture]:
    """An architecture, and the same one without one unit: a head, a block of neurons, or a layer."""
    whole = draw(parts_of(Architecture.full(WIDE), FFN_STEP))
    layers = list(whole.layers)
    index = draw(st.sampled_from(whole.kept_layers))
    units = layers[index]
    assert units is not None
    smaller: list[KeptUnits | None] = [None] if len(whole.kept_layers) > 1 else []
    smaller += [KeptUnits(tuple(h for h in units.heads if h != head), units.neurons) for head in units.heads]
    smaller += [KeptUnits(units.heads, units.neurons[FFN_STEP:])] if units.neurons else []
    assume(smaller)
    layers[index] = draw(st.sampled_from(smaller))
    return whole, Architecture(tuple(layers))


def stored_mb(base: PreTrainedModel, architecture: Architecture, precision: Precision) -> float:
    model = cut(copy.deepcopy(base), architecture)
    return memory_mb(stored_tensors(quantize(model, precision, "cpu")))


@pytest.mark.parametrize("precision", mostly_slow(TORCH_PRECISIONS, ("bf16", "int4")))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(pair=removals())
def test_less_of_a_model_takes_less_memory(precision: Precision, pair: tuple[Architecture, Architecture]) -> None:
    before, after = pair
    assert stored_mb(WIDE_MODEL, after, precision) < stored_mb(WIDE_MODEL, before, precision)


def test_at_int4_a_layer_of_odd_width_takes_more() -> None:
    """The exception: where heads have 32 channels, one that goes can leave the output projection in bf16."""
    shape = EncoderShape(num_layers=1, num_heads=8, ffn_size=FFN_STEP, hidden_size=256)
    base, neurons = make_model("bert", shape), tuple(range(FFN_STEP))
    sizes = [stored_mb(base, Architecture((KeptUnits(tuple(range(heads)), neurons),)), "int4") for heads in (8, 7, 6)]
    assert sizes[2] < sizes[0] < sizes[1]
