"""Losses against NumPy and against hand-worked values."""

import numpy as np
import pytest
import torch

from nasopt.training.losses import hidden_cosine, prediction_kl


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
