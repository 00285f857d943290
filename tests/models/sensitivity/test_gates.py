"""Gates in hooks against scaled weights and cut models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.errors import UnsupportedModelError
from nasopt.models.families import FAMILIES
from nasopt.models.sensitivity.gates import gate_gradients, gated, unit_blocks
from nasopt.models.surgery import cut

LAYERS, HEADS, FFN = 3, 4, 128
SMALLER = Architecture((KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((), tuple(range(128)))))


def ones(model: PreTrainedModel) -> tuple[list[Tensor], list[Tensor]]:
    blocks = unit_blocks(model)
    return [torch.ones(layer.heads.count) for layer in blocks], [torch.ones(layer.neurons.count) for layer in blocks]


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    found: Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_units_whose_gates_are_0_are_as_good_as_cut(
    make_model: Callable[..., PreTrainedModel], batch: dict[str, Tensor], family: str
) -> None:
    model = make_model(family)
    heads, neurons = ones(model)
    assert [len(gates) for gates in heads] == [HEADS] * LAYERS
    assert [len(gates) for gates in neurons] == [FFN] * LAYERS
    with gated(model, heads, neurons):
        torch.testing.assert_close(logits(model, batch), logits(copy.deepcopy(model), batch))
    kept = KeptUnits((1, 2), tuple(range(0, 128, 2)))
    target = Architecture((kept, kept, KeptUnits((), ())))
    for layer, units in enumerate(target.layers):
        assert units is not None
        heads[layer] = torch.isin(torch.arange(HEADS), torch.tensor(units.heads, dtype=torch.int64)).float()
        neurons[layer] = torch.isin(torch.arange(FFN), torch.tensor(units.neurons, dtype=torch.int64)).float()
    with gated(model, heads, neurons):
        masked = logits(model, batch)
    smaller = cut(copy.deepcopy(model), target)
    torch.testing.assert_close(masked, logits(smaller, batch), rtol=1e-4, atol=1e-4)
    assert [(layer.heads.count, layer.neurons.count) for layer in unit_blocks(smaller)] == [(2, 64), (2, 64), (0, 0)]


def test_every_example_can_have_gates_of_its_own(
    make_model: Callable[..., PreTrainedModel], batch: dict[str, Tensor]
) -> None:
    model = make_model("bert")
    heads, neurons = ones(model)
    plain = logits(model, batch)
    rows = torch.ones(3, HEADS)
    rows[1, 2] = 0.0
    heads[0] = rows
    with gated(model, heads, neurons):
        changed = (logits(model, batch) - plain).abs().sum(dim=1) > 1e-6
    assert changed.tolist() == [False, True, False]
    assert bool((logits(model, batch) == plain).all())  # the hooks are gone


def test_a_cut_model_has_gates_for_what_it_has(
    make_model: Callable[..., PreTrainedModel], batch: dict[str, Tensor]
) -> None:
    model = cut(make_model("distilbert"), SMALLER)
    heads, neurons = ones(model)
    assert [len(gates) for gates in heads] == [2, 0]
    assert [len(gates) for gates in neurons] == [64, 128]
    plain = logits(model, batch)
    with gated(model, heads, [gates * 0 for gates in neurons]):
        assert not torch.allclose(logits(model, batch), plain)
    with pytest.raises(ValueError, match="3 gates for 2 units"), gated(model, [torch.ones(3), heads[1]], neurons):
        pass


def test_the_model_is_as_before(make_model: Callable[..., PreTrainedModel], batch: dict[str, Tensor]) -> None:
    model = make_model("bert")
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    with gate_gradients(model) as gradients:
        model(**batch).logits.sum().backward()
        first = gradients.take()
        assert [heads.shape for heads, _ in first] == [(3, HEADS)] * LAYERS
        assert gradients.take()[0][0].shape == (0, HEADS)  # taken once
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter is frozen for parameter in model.parameters() if not parameter.requires_grad] == [True]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_models_without_units_are_refused() -> None:
    from decoders import make_decoder

    with pytest.raises(UnsupportedModelError, match="which has a decoder"):
        unit_blocks(make_decoder("mbart"))
