"""The loss of the Taylor method, against NumPy and hand-worked values."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from nasopt.methods.taylor.matching import (
    HiddenMatching,
    LogitMatching,
    MatchingWeights,
    VectorMatching,
)
from nasopt.tasks import base
from nasopt.training.losses import vector_distance


def test_the_loss_of_sentence_encoders() -> None:
    """Checked against NumPy: ranking weight x a given loss + mean over both sides of squared distances + token MSE
    of two layers."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(3, 4, 2, generator=generator) for _ in range(2)]
    middle = [torch.randn(3, 4, 2, generator=generator) for _ in range(2)]
    teachers = [torch.randn(2, 3, 4, 2, generator=generator) for _ in range(2)]
    stored = [torch.randn(5, 2, generator=generator) for _ in range(2)]
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    indices = torch.tensor([4, 0, 2])
    side = SimpleNamespace(attention_mask=mask)
    batch = SimpleNamespace(sides=(side, side), indices=indices)

    class Task:
        def run(self, model: object, batch: object, hidden_states: bool) -> list[object]:
            assert hidden_states
            pairs = zip(states, middle, strict=True)
            return [SimpleNamespace(last_hidden_state=last, hidden_states=(None, one, last)) for last, one in pairs]

        def loss_of(self, outputs: object, batch: object) -> Tensor:
            return torch.tensor(7.0)

        def vectors(self, outputs: list[SimpleNamespace], batch: object) -> list[Tensor]:
            return [item.last_hidden_state[:, 0] for item in outputs]

    weights = MatchingWeights(0.5, 2.0, 3.0)
    hidden_matching = HiddenMatching((1, -1), [lambda side, t=t: (None, t) for t in teachers])  # type: ignore[misc]
    loss = VectorMatching(Task(), weights, stored, hidden_matching)
    distances, tokens = [], []
    for mine, first, its, hidden in zip(states, middle, stored, teachers, strict=True):
        distances.append(((mine[:, 0] - its[indices]).numpy() ** 2).sum(axis=1).mean())
        real = mask.numpy().astype(bool)
        for one, other in zip((first, mine), hidden, strict=True):
            tokens.append(((one.numpy() - other.numpy()) ** 2).mean(axis=2)[real].mean())
    expected = 0.5 * 7 + 2 * np.mean(distances) + 3 * np.mean(tokens)
    assert float(loss(None, batch)) == pytest.approx(float(expected), rel=1e-5)  # type: ignore[arg-type]


def test_the_loss_of_classifiers() -> None:
    logits, target = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])

    class Task:
        is_classification = True
        probabilities = "softmax"
        distributions = base.Task.distributions

        def run(self, model: object, batch: object, hidden_states: bool) -> list[object]:
            assert not hidden_states
            return [SimpleNamespace(logits=logits)]

        def loss_of(self, outputs: object, batch: object) -> Tensor:
            return torch.tensor(1.0)

    loss = LogitMatching(Task(), MatchingWeights(1.0, 0.5), lambda batch: (target, None))  # type: ignore[arg-type, return-value]
    mine = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    divergence = (0.5 * np.log(0.5 / mine)).sum(axis=1).mean()
    batch = SimpleNamespace(attention_mask=torch.ones(2, 3))
    assert float(loss(None, batch)) == pytest.approx(1 + 0.5 * divergence, rel=1e-5)  # type: ignore[arg-type]


def test_distance_of_vectors() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert float(vector_distance(a, b)) == pytest.approx(1.0)  # (2 + 0) / 2, and 2 - 2 cos of unit vectors
