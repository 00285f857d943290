"""The optimal brain surgeon against least squares, brute force and NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.models.sensitivity.calibration import Grams, input_grams
from nasopt.models.sensitivity.gates import unit_blocks
from nasopt.models.sensitivity.obs import (
    Elimination,
    corrected_weight,
    damped,
    extended_weight,
    order_by_obs,
    remove_greedily,
    unit_columns,
)
from nasopt.models.sensitivity.values import BlockSensitivity

OUT, UNITS, SIZE = 5, 6, 3
WIDTH = UNITS * SIZE


@pytest.fixture
def weight() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(OUT, WIDTH)))


@pytest.fixture
def inputs() -> Tensor:
    """(d_in, tokens), correlated."""
    generator = np.random.default_rng(1)
    return torch.from_numpy(generator.normal(size=(WIDTH, WIDTH)) @ generator.normal(size=(WIDTH, 50)))


UNIT_COLUMNS = [torch.arange(unit * SIZE, (unit + 1) * SIZE) for unit in range(UNITS)]


def least_squares(weight: Tensor, inputs: Tensor, kept: list[int], eps: float) -> tuple[np.ndarray, float]:
    """NumPy: the best W' with columns `kept`, by the stacked problem `[X; sqrt(eps) I]`, and its squared error."""
    width = weight.shape[1]
    stacked = np.hstack([inputs.numpy(), np.sqrt(eps) * np.eye(width)])
    target = weight.numpy() @ stacked
    solution, *_ = np.linalg.lstsq(stacked[kept].T, target.T, rcond=None)
    return solution.T, float(((target - solution.T @ stacked[kept]) ** 2).sum())


def test_corrected_weights_are_the_least_squares_refit(weight: Tensor, inputs: Tensor) -> None:
    eps = 0.7
    hessian = inputs @ inputs.T + eps * torch.eye(WIDTH, dtype=torch.float64)
    state = Elimination(weight, hessian, UNIT_COLUMNS)
    assert torch.allclose(state.weight, weight)
    total = 0.0
    for unit in (4, 0, 5, 2):
        total += state.cost(unit)
        state.remove(unit)
        kept = [column for left in state.left for column in UNIT_COLUMNS[left].tolist()]
        expected, error = least_squares(weight, inputs, kept, eps)
        assert state.weight[:, kept].numpy() == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert state.weight.abs().sum(dim=0).nonzero().flatten().tolist() == kept
        assert total == pytest.approx(error, rel=1e-9)
        assert corrected_weight(weight, hessian, torch.tensor(kept)).numpy() == pytest.approx(expected, rel=1e-7)


def test_each_step_is_the_best_single_removal(weight: Tensor, inputs: Tensor) -> None:
    eps = 0.3
    hessian = inputs @ inputs.T + eps * torch.eye(WIDTH, dtype=torch.float64)
    found = remove_greedily(weight, hessian, UNIT_COLUMNS)
    left = list(range(UNITS))
    errors = [0.0]
    for unit in reversed(found.order):
        tried = {
            other: least_squares(
                weight, inputs, [c for stay in left if stay != other for c in UNIT_COLUMNS[stay].tolist()], eps
            )[1]
            for other in left
        }
        assert min(tried, key=tried.__getitem__) == unit
        errors.append(tried[unit])
        left.remove(unit)
    assert found.errors == pytest.approx([error / errors[-1] for error in reversed(errors)])


def test_a_single_removal_by_the_formula(weight: Tensor, inputs: Tensor) -> None:
    """`sum_i W_{i,S} ((H^-1)_{S,S})^-1 W_{i,S}^T` and `-W_{:,S} ((H^-1)_{S,S})^-1 (H^-1)_{S,:}`, written out."""
    hessian = inputs @ inputs.T + torch.eye(WIDTH, dtype=torch.float64)
    inverse = np.linalg.inv(hessian.numpy())
    for unit, columns in enumerate(UNIT_COLUMNS):
        own, cols = weight.numpy()[:, columns], columns.numpy()
        middle = np.linalg.inv(inverse[np.ix_(cols, cols)])
        state = Elimination(weight, hessian, UNIT_COLUMNS)
        assert state.cost(unit) == pytest.approx(np.trace(own @ middle @ own.T))
        state.remove(unit)
        assert state.weight.numpy() == pytest.approx(weight.numpy() - own @ middle @ inverse[cols], abs=1e-9)


def test_errors_fall_from_1_to_0_and_any_columns_may_be_a_unit(weight: Tensor, inputs: Tensor) -> None:
    scattered = [torch.arange(start, WIDTH - 1, 5) for start in range(5)]  # the last column belongs to none
    hessian = damped(inputs @ inputs.T)
    found = remove_greedily(weight, hessian, scattered)
    assert sorted(found.order) == list(range(5))
    assert (found.errors[0], found.errors[-1]) == (1.0, 0.0)
    assert all(more >= less for more, less in itertools.pairwise(found.errors))
    # Units 2, 3 and 4 have a column less than the others, and go first.
    assert set(found.order[2:]) == {2, 3, 4}


def test_what_a_twin_can_write_costs_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 100, generator=generator, dtype=torch.float64)
    inputs[3] = 2.0 * inputs[0]
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found = remove_greedily(weight, damped(inputs @ inputs.T, 1e-9), [torch.tensor([column]) for column in range(4)])
    assert set(found.order[-1:]) <= {0, 3}
    assert found.errors[3] < 1e-6
    nothing = remove_greedily(torch.zeros(3, 4), damped(torch.zeros(4, 4)), [torch.tensor([0, 1]), torch.tensor([2])])
    assert nothing.errors == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        damped(torch.full((2, 2), torch.nan))


def test_a_bias_takes_over_the_mean() -> None:
    """Inputs that never change can go without any error if there is a bias."""
    torch.manual_seed(0)
    projection = nn.Linear(4, 3).double()
    inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[:, 1] = 3.0
    rows = torch.cat([inputs, torch.ones(100, 1)], dim=1)
    fisher = BlockSensitivity((3, 2, 1, 0), 1, (4.0, 3.0, 2.0, 1.0), (1.0, 0.6, 0.3, 0.1, 0.0))
    found = order_by_obs(fisher, projection, rows.T @ rows)
    assert found.order[-1] == 1
    assert found.errors[3] < 0.03  # what the damping leaves
    assert dict(zip(found.order, found.values, strict=True)) == {3: 4.0, 2: 3.0, 1: 2.0, 0: 1.0}
    kept = torch.tensor([0, 2, 3, 4])
    new = corrected_weight(extended_weight(projection), damped(rows.T @ rows, 1e-9), kept)
    expected = projection.bias + 3.0 * projection.weight[:, 1]
    assert torch.allclose(new[:, -1], expected, atol=1e-4)
    # With nothing left the error is the variance, so that the order is by what varies.
    assert found.errors[0] == 1.0


def test_units_of_neurons_are_those_of_the_fisher_order() -> None:
    projection = nn.Linear(10, 3, bias=False)
    rows = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    fisher = BlockSensitivity((9, 0, 8, 1, 7, 2, 6, 3, 5, 4), 4, (3.0, 2.0, 1.0), (1.0, 0.5, 1 / 6, 0.0))
    found = order_by_obs(fisher, projection, rows.T.double() @ rows.double())
    assert found.order[-2:] == (5, 4)  # the one that is not full
    assert {found.order[:4], found.order[4:8]} == {(9, 0, 8, 1), (7, 2, 6, 3)}
    assert unit_columns(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]
    empty = BlockSensitivity((), 1, (), (0.0,))
    assert order_by_obs(empty, projection, rows) is empty


@pytest.mark.parametrize(("room", "passes_again"), [(2**29, 0), (1, 2)])
def test_grams_are_kept_as_far_as_they_fit(
    make_model: Callable[..., PreTrainedModel], batch: dict[str, Tensor], room: int, passes_again: int
) -> None:
    model = make_model("bert")
    projections = [block.projection for layer in unit_blocks(model) for block in layer if block.projection is not None]
    passes = []

    def forward(module: nn.Module, inputs: dict[str, Tensor]) -> None:
        passes.append(1)
        module(**inputs)

    grams = Grams(model, [batch], forward=forward, max_bytes=room)
    first = list(grams.of(projections))
    passes.clear()
    again = list(grams.of([projections[3], projections[0]]))
    assert len(passes) == passes_again
    for found, wanted in zip(again, (first[3], first[0]), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "mpnet"])
@pytest.mark.parametrize("max_bytes", [1, 2**29])
def test_grams_are_of_what_projections_read(
    make_model: Callable[..., PreTrainedModel], batch: dict[str, Tensor], family: str, max_bytes: int
) -> None:
    model = make_model(family)
    projections = [block.projection for layer in unit_blocks(model) for block in layer if block.projection is not None]
    passes = []

    def forward(module: nn.Module, inputs: dict[str, Tensor]) -> None:
        passes.append(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            module(**inputs)

    found = list(input_grams(model, projections, [batch, batch], forward=forward, max_bytes=max_bytes))
    assert len(passes) == (2 if max_bytes > 1 else 2 * len(projections))
    seen: list[Tensor] = []
    hook = projections[3].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    rows = seen[0][batch["attention_mask"].bool()].double()
    assert len(rows) == 9 + 5 + 2
    if projections[3].bias is not None:
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(found[3], 2 * rows.T @ rows, rtol=1e-5, atol=1e-5)
