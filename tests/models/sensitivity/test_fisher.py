"""Fisher information against a backward pass for each example, and against finite differences of explicit gates."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.families import FAMILIES
from nasopt.models.saliency import Saliency
from nasopt.models.sensitivity.fisher import fisher_information, order_by_fisher, random_projection
from nasopt.models.sensitivity.gates import gated, unit_blocks
from nasopt.models.surgery import cut

Inputs = dict[str, Tensor]


@pytest.fixture
def batches() -> list[Inputs]:
    """Five and three texts, padded."""
    generator = torch.Generator().manual_seed(3)
    result = []
    for size in (5, 3):
        ids = torch.randint(5, 100, (size, 7), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 4:] = 0
        result.append({"input_ids": ids, "attention_mask": mask})
    return result


def loss(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """A mean over the batch; an example's label is the parity of its first token."""
    return functional.cross_entropy(model(**inputs).logits, inputs["input_ids"][:, 0] % 2)


def ranking(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Couples the examples: each one's logits should be nearest to their own multiple."""
    logits = model(**inputs).logits
    return functional.cross_entropy(logits @ (1.5 * logits).T, torch.arange(len(logits)))


def rows_of(batches: list[Inputs]) -> list[Inputs]:
    return [
        {name: values[row : row + 1] for name, values in inputs.items()}
        for inputs in batches
        for row in range(len(inputs["input_ids"]))
    ]


def gates_of(model: PreTrainedModel) -> list[list[Tensor]]:
    return [[torch.ones(block.count, dtype=torch.float64) for block in layer] for layer in unit_blocks(model)]


def derivatives(model: PreTrainedModel, inputs: Inputs, loss_function: Callable[..., Tensor]) -> list[list[Tensor]]:
    """Gradients by autograd through explicit gates."""
    gates = [[gate.requires_grad_() for gate in layer] for layer in gates_of(model)]
    with gated(model, [layer[0] for layer in gates], [layer[1] for layer in gates]):
        loss_function(model, inputs).backward()
    return [[torch.zeros_like(gate) if gate.grad is None else gate.grad for gate in layer] for layer in gates]


def assert_equal(found: Saliency, expected: list[list[Tensor]]) -> None:
    # Rotary positions are rounded to float32, so not closer than this.
    for heads, neurons, wanted in zip(found.heads, found.neurons, expected, strict=True):
        torch.testing.assert_close(heads, wanted[0], rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(neurons, wanted[1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("is_cut", [False, True], ids=["full", "cut"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_one_backward_pass_for_each_example(
    make_model: Callable[..., PreTrainedModel], batches: list[Inputs], family: str, is_cut: bool
) -> None:
    model = make_model(family).double()
    if is_cut:
        cut(model, Architecture((KeptUnits((), tuple(range(64))), None, KeptUnits((0, 2), ()))))
    found = fisher_information(model, batches, loss)
    singles = [derivatives(model, inputs, loss) for inputs in rows_of(batches)]
    expected = [
        [torch.stack([single[layer][kind] for single in singles]).square().mean(dim=0) for kind in range(2)]
        for layer in range(len(singles[0]))
    ]
    assert_equal(found, expected)
    assert all(bool((values > 0).all()) for values in found.heads if len(values))


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_finite_differences_of_gates(
    make_model: Callable[..., PreTrainedModel], batches: list[Inputs], family: str
) -> None:
    model = make_model(family).double()
    found = fisher_information(model, batches, loss)
    step = 1e-5
    for layer, kind, unit in ((0, 0, 0), (1, 0, 3), (2, 1, 17), (0, 1, 100)):
        squares = []
        for inputs in rows_of(batches):
            values = []
            for sign in (1, -1):
                gates = gates_of(model)
                gates[layer][kind][unit] += sign * step
                with torch.no_grad(), gated(model, [pair[0] for pair in gates], [pair[1] for pair in gates]):
                    values.append(float(loss(model, inputs)))
            squares.append(((values[0] - values[1]) / (2 * step)) ** 2)
        value = (found.heads, found.neurons)[kind][layer][unit]
        assert float(value) == pytest.approx(sum(squares) / len(squares), rel=1e-4, abs=1e-12)


def test_random_projections_of_vectors_have_the_curvature_of_their_distance(
    make_model: Callable[..., PreTrainedModel], batches: list[Inputs]
) -> None:
    """Against the Jacobian of each example's vector by every gate, whose columns are squared and summed."""
    model = make_model("bert").double()
    generator = torch.Generator().manual_seed(0)

    def loss_function(model: PreTrainedModel, inputs: Inputs) -> Tensor:
        return random_projection([model(**inputs).logits], generator)

    rows = rows_of(batches)
    found = fisher_information(model, rows * 150, loss_function)
    outputs = model(**rows[0]).logits.shape[-1]
    columns = [
        [derivatives(model, inputs, lambda *given, k=k: loss_k(*given, k)) for k in range(outputs)] for inputs in rows
    ]
    expected = [
        [
            torch.stack([sum(one[layer][kind].square() for one in jacobian) for jacobian in columns]).mean(dim=0)
            for kind in range(2)
        ]
        for layer in range(3)
    ]
    for heads, neurons, wanted in zip(found.heads, found.neurons, expected, strict=True):
        torch.testing.assert_close(heads, wanted[0], rtol=0.3, atol=0)
        torch.testing.assert_close(neurons.sum(), wanted[1].sum(), rtol=0.1, atol=0)


def loss_k(model: PreTrainedModel, inputs: Inputs, k: int) -> Tensor:
    return model(**inputs).logits[:, k].sum()


def test_batches_do_not_matter_where_examples_are_apart(
    make_model: Callable[..., PreTrainedModel], batches: list[Inputs]
) -> None:
    model = make_model("roberta").double()
    together, apart = (fisher_information(model, given, loss) for given in (batches, rows_of(batches)))
    assert_equal(together, [list(pair) for pair in zip(apart.heads, apart.neurons, strict=True)])


def test_two_texts_of_one_example_add_up(make_model: Callable[..., PreTrainedModel], batches: list[Inputs]) -> None:
    model = make_model("bert").double()
    pair = [(batches[0], {name: values.flip(0) for name, values in batches[0].items()})]

    def both(model: PreTrainedModel, given: tuple[Inputs, Inputs]) -> Tensor:
        first, second = (model(**inputs).logits for inputs in given)
        return (first - second).square().sum(dim=1).mean()

    found = fisher_information(model, pair, both)
    singles = list(zip(rows_of([pair[0][0]]), rows_of([pair[0][1]]), strict=True))
    alone = fisher_information(model, singles, both)
    assert_equal(found, [list(values) for values in zip(alone.heads, alone.neurons, strict=True)])


def test_no_batch_no_unit_and_a_loss_that_is_not_finite(
    make_model: Callable[..., PreTrainedModel], batches: list[Inputs]
) -> None:
    model = make_model("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="at least one batch"):
        fisher_information(model, [], loss)
    with pytest.raises(ValueError, match="not finite"):
        fisher_information(model, batches, lambda *given: loss(*given) * torch.inf)
    assert all(bool((before[name] == value).all()) for name, value in model.state_dict().items())
    nothing = KeptUnits((), ())
    found = fisher_information(cut(model, Architecture((nothing, nothing, nothing))), batches, loss)
    assert [len(values) for values in (*found.heads, *found.neurons)] == [0] * 6


def test_order_and_blocks() -> None:
    neurons = torch.zeros(144, dtype=torch.float64)
    neurons[100:] = 2.0  # 44 of them come first
    neurons[:64] = 1.0
    heads = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    found = order_by_fisher(Saliency((heads, heads[:0]), (neurons, neurons * 0)))
    first, block = found.heads[0], found.neurons[0]
    assert (first.order, first.values) == ((1, 2, 0), (2.0, 1.5, 0.5))
    assert first.errors == pytest.approx((1.0, 0.5, 0.125, 0.0))
    assert first.expected_losses == pytest.approx((4.0, 2.0, 0.5, 0.0))
    assert block.values == (88.0 + 20.0, 44.0, 0.0)
    assert block.errors == pytest.approx((1.0, 44 / 152, 0.0, 0.0))
    assert block.kept(1) == (*range(20), *range(100, 144))
    assert len(block.kept(3)) == 144
    assert (found.heads[1].units, found.heads[1].errors) == (0, (0.0,))
    assert found.neurons[1].errors == (0.0,) * 4


def test_coupled_units_cost_more_together_than_the_sum_of_each() -> None:
    information = Saliency((torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64),), (torch.zeros(64),))
    alone, jointly = order_by_fisher(information), order_by_fisher(information, 1.5)
    assert jointly.heads[0].order == alone.heads[0].order
    assert jointly.heads[0].expected_losses == pytest.approx((4.0, 4 * 0.5**1.5, 4 * 0.125**1.5, 0.0))
    steps = -np.diff(jointly.heads[0].expected_losses[::-1])  # of one unit after another, the least important first
    assert (np.diff(-steps / np.array([0.5, 1.5, 2.0])) > 0).all()
    assert jointly.neurons[0].errors == (0.0, 0.0)
