"""The distillation loss, against NumPy and hand-worked values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from nasopt.methods.genetic.options import GeneticOptions
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Batch, PairBatch
from nasopt.training.distillation import distillation_loss
from nasopt.training.losses import hidden_cosine, label_kl, prediction_kl


def test_hidden_cosine_averages_over_real_tokens_only() -> None:
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [5.0, 5.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-5.0, 5.0]]])
    mask = torch.tensor([[1, 1, 0]])
    # cos = 1 and 1/sqrt(2); the third token is padding.
    assert hidden_cosine(student, teacher, mask).item() == pytest.approx((0 + 1 - 1 / np.sqrt(2)) / 2)


def test_hidden_cosine_of_equal_directions_is_zero() -> None:
    hidden = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert hidden_cosine(3 * hidden, hidden, torch.ones(2, 3)).item() == pytest.approx(0, abs=1e-6)


def test_the_divergence_of_labels_is_that_of_each_label_s_probability() -> None:
    student, teacher = np.random.default_rng(1).normal(size=(2, 3, 4))
    p, q = (1 / (1 + np.exp(-logits / 2)) for logits in (teacher, student))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum() / 3
    found = label_kl(torch.tensor(student), torch.tensor(teacher), 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert label_kl(torch.tensor(student), torch.tensor(teacher), 2.0, True).item() == pytest.approx(4 * found.item())


def test_logits_of_tokens_are_compared_at_real_tokens_only() -> None:
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = Batch({"attention_mask": mask}, torch.zeros(2), torch.arange(2))
    rows = [Task.distributions(None, logits, batch) for logits in (student, teacher)]  # type: ignore[arg-type]
    expected = [prediction_kl(student[i, j][None], teacher[i, j][None], 2.0) for i, j in ((0, 0), (0, 1), (1, 0))]
    assert prediction_kl(*rows, 2.0).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    of_texts = torch.randn(2, 4)
    assert Task.distributions(None, of_texts, batch) is of_texts  # type: ignore[arg-type]


class _Task:
    """A stand-in with the loss and the kind of task that the distillation loss asks for."""

    probabilities = "softmax"
    embedding = None
    distributions = Task.distributions

    def run(self, model: torch.nn.Module, batch: Batch, hidden_states: bool) -> list[object]:
        return [model(**batch.inputs, output_hidden_states=hidden_states)]

    def loss_of(self, outputs: list[Any], batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs[0].logits, batch.labels)


def test_the_distillation_loss_is_the_weighted_sum() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 2, 3))
    student_hidden, teacher_hidden = generator.normal(size=(2, 2, 4, 5))
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    labels = np.array([2, 0])

    class Model(torch.nn.Module):
        def forward(self, attention_mask: Tensor, output_hidden_states: bool):  # type: ignore[no-untyped-def]
            class Output:
                logits = torch.tensor(student)
                hidden_states = (torch.tensor(student_hidden),)

            return Output

    options = GeneticOptions(task_weight=0.5, hidden_weight=2.0, prediction_weight=3.0, temperature=2.0)
    loss = distillation_loss(
        options, _Task(), [lambda batch: (torch.tensor(teacher), torch.tensor(teacher_hidden)[None])]
    )
    batch = Batch({"attention_mask": torch.tensor(mask)}, torch.tensor(labels), torch.arange(2))

    def softmax(logits: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits)
        return exponentials / exponentials.sum(-1, keepdims=True)

    task = -np.log(softmax(student)[[0, 1], labels]).mean()
    norms = np.linalg.norm(student_hidden, axis=-1) * np.linalg.norm(teacher_hidden, axis=-1)
    hidden = ((1 - (student_hidden * teacher_hidden).sum(-1) / norms) * mask).sum() / mask.sum()
    p, q = softmax(teacher / 2), softmax(student / 2)
    prediction = (p * np.log(p / q)).sum(-1).mean()
    assert loss(Model(), batch).item() == pytest.approx(0.5 * task + 2 * hidden + 3 * prediction, rel=1e-5)


class _Vectors:
    """A stand-in of a task whose outputs are vectors: the first token's hidden states."""

    probabilities = None

    @property
    def embedding(self) -> _Vectors:
        return self

    def run(self, model: Any, batch: PairBatch, hidden_states: bool) -> list[Any]:
        return [model(side) for side in batch.sides]

    def loss_of(self, outputs: list[Any], batch: PairBatch) -> Tensor:
        return torch.tensor(7.0)

    def vectors(self, outputs: list[Any], batch: PairBatch) -> list[Tensor]:
        return [output.last_hidden_state[:, 0] for output in outputs]


def test_vectors_are_compared_where_there_are_no_probabilities() -> None:
    states = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5))
    students, teachers = (torch.tensor(part) for part in states)  # for each side 3 texts of 4 tokens
    labels, mask = torch.zeros(3), torch.ones(3, 4, dtype=torch.int64)
    sides = [Batch({"attention_mask": mask}, labels, torch.arange(3)) for _ in range(2)]

    def model(side: Batch) -> BaseModelOutput:
        hidden = students[[side is one for one in sides].index(True)]
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,))

    given = [lambda side, rows=rows: (torch.zeros(3, 0), rows[None]) for rows in teachers]
    options = GeneticOptions(task_weight=0.5, hidden_weight=2.0, prediction_weight=3.0)
    loss = distillation_loss(options, _Vectors(), given)
    cosines = (states[0] * states[1]).sum(-1) / np.linalg.norm(states, axis=-1).prod(axis=0)
    distances = ((states[0] - states[1])[:, :, 0] ** 2).sum(-1)
    expected = 0.5 * 7 + 2 * (1 - cosines).mean() + 3 * distances.mean()
    assert loss(model, PairBatch(*sides)).item() == pytest.approx(expected, rel=1e-5)
