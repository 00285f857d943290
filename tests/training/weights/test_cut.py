"""Weights cut out of the base model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.training.candidate import Lineage
from nasopt.training.context import BaseTrial, Context
from nasopt.training.weights import Cut

ALL = tuple(range(128))
SMALL = Architecture((KeptUnits((0, 3), ALL[:64]), None, KeptUnits((1,), ALL[32:])))


def logits(model: PreTrainedModel, context: Context) -> Tensor:
    with torch.inference_mode():
        output: Tensor = model.to("cpu").eval()(**context.splits["validation"].batch(torch.arange(20)).inputs).logits
    return output


def masked(model: PreTrainedModel, architecture: Architecture, head_size: int) -> PreTrainedModel:
    """The base model in which what the architecture lacks writes zeros."""
    model = copy.deepcopy(model)
    layers = model.bert.encoder.layer
    with torch.no_grad():
        for layer, units in zip(layers, architecture.layers, strict=True):
            if units is None:
                continue
            for head in set(range(4)) - set(units.heads):
                layer.attention.output.dense.weight[:, head * head_size : (head + 1) * head_size] = 0.0
            layer.output.dense.weight[:, sorted(set(ALL) - set(units.neurons))] = 0.0
    model.bert.encoder.layer = torch.nn.ModuleList(layers[index] for index in architecture.kept_layers)
    return model


def test_the_candidate_is_the_masked_base_model(context: Context) -> None:
    before = copy.deepcopy(context.base_model.state_dict())
    candidate = Cut().candidate(SMALL, context)
    assert candidate.architecture == SMALL
    assert candidate.model.num_parameters() < context.base_model.num_parameters()
    expected = logits(masked(context.base_model, SMALL, context.shape.head_size), context)
    torch.testing.assert_close(logits(candidate.model, context), expected, atol=1e-5, rtol=1e-5)
    assert (logits(candidate.model, context) - logits(context.base_model, context)).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in context.base_model.state_dict().items())


def test_nothing_was_trained_since_the_base_trial(context: Context) -> None:
    assert Cut().candidate(SMALL, context).lineage == Lineage(None)
    after = replace(context, base=BaseTrial(2, (0.9, 1.0, 1.0), {}))
    candidate = Cut().candidate(SMALL, after)
    assert candidate.lineage == Lineage(2)
    assert (candidate.training, candidate.details) == ({}, {})


def test_refitted_projections_are_nearer_to_the_base_model(context: Context) -> None:
    def distance(refit_examples: int) -> float:
        model = Cut(refit_examples).candidate(SMALL, context).model
        return float((logits(model, context) - logits(context.base_model, context)).square().mean())

    assert distance(refit_examples=160) < 0.7 * distance(refit_examples=0)


@pytest.mark.parametrize("refit_examples", [0, 32])
def test_a_cut_vocabulary_keeps_the_rows_of_its_tokens(context: Context, refit_examples: int) -> None:
    kept = (0, 1, 2, 3, 4, 6, 9)
    candidate = Cut(refit_examples).candidate(replace(SMALL, vocabulary=kept), context)
    rows = context.base_model.get_input_embeddings().weight[list(kept)]
    assert torch.equal(candidate.model.get_input_embeddings().weight, rows)
    assert candidate.architecture == replace(SMALL, vocabulary=kept)


def test_equal_genotypes_are_the_same_work_whatever_the_parent() -> None:
    gone = {"layer_0": 0, "heads_0": 3, "ffn_0": 64}
    assert Cut().work(gone) == Cut().work({**gone, "heads_0": 0, "ffn_0": 0})
    assert Cut().work(gone) != Cut().work({**gone, "layer_0": 1})
    assert not Cut.needs_parents
