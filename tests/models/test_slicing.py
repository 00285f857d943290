"""Sub-networks that share the weights of a full-size model: what they compute, and where gradients go."""

from __future__ import annotations

import copy

import pytest
import torch
from masked_models import FAMILIES, TARGETS, masked

from nasopt.architecture.encoder import Architecture
from nasopt.models.slicing import SlicedModel
from nasopt.models.surgery import cut


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slice_computes_what_the_cut_model_does(make_model, batch, family):
    model = make_model(family)
    for layers in TARGETS.values():
        sliced = SlicedModel(model, Architecture(layers))
        small = cut(copy.deepcopy(model), Architecture(layers))
        with torch.no_grad():
            found = sliced(**batch, output_hidden_states=True)
            expected = small(**batch, output_hidden_states=True)
        assert torch.allclose(found.logits, expected.logits, atol=1e-5)
        assert len(found.hidden_states) == len(expected.hidden_states)
        for mine, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_masked_model(make_model, batch, family):
    model = make_model(family)
    for name in ("combined", "no attention", "no ffn", "empty layers"):
        reference = masked(model, family, TARGETS[name])  # a copy
        reference(**batch).logits.square().sum().backward()
        model.zero_grad()
        SlicedModel(model, Architecture(TARGETS[name]))(**batch).logits.square().sum().backward()
        expected = {name: item.grad for name, item in reference.named_parameters()}
        felt = 0
        for parameter, item in model.named_parameters():
            theirs = torch.zeros_like(item) if expected[parameter] is None else expected[parameter]
            mine = torch.zeros_like(item) if item.grad is None else item.grad
            assert torch.allclose(mine, theirs, atol=1e-4 * float(theirs.abs().max()) + 1e-6), (name, parameter)
            felt += int(mine.abs().sum() > 0)
        assert felt > 10


def test_a_slice_follows_the_model_it_is_of(make_model, batch):
    model = make_model("bert")
    sliced = SlicedModel(model, Architecture(TARGETS["combined"]))
    assert {id(item) for item in sliced.parameters()} == {id(item) for item in model.parameters()}
    with torch.no_grad():
        before = sliced(**batch).logits
        model.bert.encoder.layer[0].output.dense.weight[:, 0] += 1.0  # a neuron that is kept
        after = sliced(**batch).logits
        model.bert.encoder.layer[0].output.dense.weight[:, 1] += 1.0  # and one that is not
        assert torch.equal(sliced(**batch).logits, after)
    assert not torch.equal(before, after)
    model.train()
    assert not torch.equal(sliced(**batch).logits, sliced(**batch).logits)  # dropout
    model.eval()
    assert torch.equal(sliced(**batch).logits, sliced(**batch).logits)
