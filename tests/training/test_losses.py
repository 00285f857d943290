"""Losses against NumPy and against hand-worked values."""

import numpy as np
import pytest
import torch

from nasopt.training.losses import hidden_mse, layer_matched_mse, prediction_kl


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
