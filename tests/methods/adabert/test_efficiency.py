"""The efficiency loss against hand-worked values."""

from __future__ import annotations

import pytest
import torch

from nasopt.methods.adabert.efficiency import efficiency


def test_efficiency_by_hand() -> None:
    # Width 10: FLOPs 200, 600, 1000, 600, 0, 0, 0; parameters 130, 330, 530, 330, 0, 0, 0.
    uniform = torch.full((3, 7), 1 / 7, dtype=torch.float64)
    expected = (200 + 600 + 1000 + 600) / 1000 / 7 + (130 + 330 + 530 + 330) / 530 / 7
    assert efficiency(uniform, 10).item() == pytest.approx(expected)
    # conv1 in one cell, half conv5 and half skip in the other.
    theta = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0, 0, 0.5]])
    assert efficiency(theta, 10).item() == pytest.approx(((200 / 1000 + 130 / 530) + (0.5 + 0.5)) / 2)


@pytest.mark.parametrize(("operation", "cost"), [(2, 2.0), (4, 0.0), (5, 0.0), (6, 0.0)])
def test_efficiency_is_from_0_to_2(operation: int, cost: float) -> None:
    theta = torch.eye(7)[[operation] * 4]
    assert efficiency(theta, 256).item() == pytest.approx(cost)


def test_efficiency_pulls_towards_cheap_operations() -> None:
    logits = torch.zeros(1, 7, requires_grad=True)
    efficiency(torch.softmax(logits, dim=-1), 16).backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == logits.grad.max() > 0
    assert (logits.grad[0, 4:] < 0).all()
