"""Losses against NumPy and against hand-worked values."""

import numpy as np
import pytest
import torch

from nasopt.training.losses import efficiency, hidden_cosine, hidden_mse, layer_matched_mse, prediction_kl


def test_hidden_cosine_averages_over_real_tokens_only() -> None:
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [5.0, 5.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-5.0, 5.0]]])
    mask = torch.tensor([[1, 1, 0]])
    # cos = 1 and 1/sqrt(2); the third token is padding.
    assert hidden_cosine(student, teacher, mask).item() == pytest.approx((0 + 1 - 1 / np.sqrt(2)) / 2)


def test_hidden_cosine_of_equal_directions_is_zero() -> None:
    hidden = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert hidden_cosine(3 * hidden, hidden, torch.ones(2, 3)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_prediction_kl_against_numpy(temperature: float) -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 5, 3))

    def softmax(logits: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits / temperature)
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    arguments = torch.tensor(student), torch.tensor(teacher)
    assert prediction_kl(*arguments, temperature).item() == pytest.approx(expected, rel=1e-5)
    assert prediction_kl(*arguments, temperature, True).item() == pytest.approx(expected * temperature**2, rel=1e-5)


def test_kl_is_teacher_first() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[np.log(3.0), 0.0]])
    # KL((3/4, 1/4) || (1/2, 1/2)), not the other way round.
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert prediction_kl(student, teacher, 1.0).item() == pytest.approx(expected)


def test_hidden_mse_averages_over_real_tokens_and_units() -> None:
    student = torch.tensor([[[1.0, 2.0], [0.0, 1.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 4.0], [0.0, 0.0], [-9.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0]])
    # (1 + 4 + 0 + 1) / (2 tokens x 2 units); the third token is padding.
    assert hidden_mse(student, teacher, mask).item() == pytest.approx(6 / 4)


def test_layer_matched_mse_averages_over_the_pairs() -> None:
    generator = np.random.default_rng(0)
    students, teachers = generator.normal(size=(2, 3, 2, 4, 5))  # pairs, texts, tokens, units
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    squares = ((students - teachers) ** 2)[:, mask == 1]  # pairs, real tokens, units
    tensors = [torch.tensor(one) for one in students]
    expected = pytest.approx(np.mean([one.mean() for one in squares]), rel=1e-6)
    assert layer_matched_mse(tensors, [torch.tensor(one) for one in teachers], torch.tensor(mask)).item() == expected
    assert layer_matched_mse(tensors, torch.tensor(teachers), torch.tensor(mask)).item() == expected


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
