"""The training loop: it learns, it is reproducible, it trains what it should, it notices divergence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nasopt.config import TrainingConfig
from nasopt.errors import TrainingDivergedError
from nasopt.tasks.batches import Batch, EncodedSplit
from nasopt.training.loop import train

CPU = torch.device("cpu")
PER_CLASS = 40


class Bag(nn.Module):
    """Mean of embeddings, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(10, 8)
        self.classifier = nn.Linear(8, 2)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].float()
        return self.classifier((self.embeddings(input_ids) * mask).sum(1) / mask.sum(1))


def split() -> EncodedSplit:
    """Class 0 says 1, class 1 says 2, in texts of 1 to 4 tokens."""
    texts = [[label + 1] * (1 + i % 4) for i in range(PER_CLASS) for label in (0, 1)]
    offsets = torch.tensor([0, *[len(text) for text in texts]]).cumsum(0)
    flat = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    return EncodedSplit({"input_ids": flat}, {"input_ids": 0}, offsets, torch.tensor([0, 1] * PER_CLASS))


def model(seed: int = 0) -> Bag:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Bag()


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(module(**batch.inputs).float(), batch.labels)


def settings(**changes: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"epochs": 5, "batch_size": 8, "learning_rate": 0.05, **changes})


def test_it_learns() -> None:
    bag = model()
    result = train(bag, split(), cross_entropy, settings(), device=CPU, seed=0)
    assert result.steps == 5 * 10
    assert result.tokens == 5 * split().total_tokens
    assert result.loss < 0.1
    assert not bag.training


def test_equal_seeds_give_equal_weights_and_leave_the_global_state_alone() -> None:
    one, other, third = model(), model(), model()
    state = torch.get_rng_state()
    train(one, split(), cross_entropy, settings(), device=CPU, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    train(other, split(), cross_entropy, settings(), device=CPU, seed=3)
    train(third, split(), cross_entropy, settings(), device=CPU, seed=4)
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert not torch.equal(one.classifier.weight, third.classifier.weight)


def test_frozen_embeddings_stay() -> None:
    bag = model()
    before = bag.embeddings.weight.clone()
    train(bag, split(), cross_entropy, settings(freeze_word_embeddings=True), device=CPU, seed=0)
    assert torch.equal(bag.embeddings.weight, before)
    train(bag, split(), cross_entropy, settings(), device=CPU, seed=0)
    assert not torch.equal(bag.embeddings.weight, before)


def test_accumulation_takes_fewer_steps() -> None:
    result = train(model(), split(), cross_entropy, settings(epochs=1, accumulation=3), device=CPU, seed=0)
    assert result.steps == math.ceil(10 / 3)


def test_steps_are_reported() -> None:
    seen: list[tuple[int, int]] = []
    train(
        model(), split(), cross_entropy, settings(epochs=1), device=CPU, seed=0, on_step=lambda *step: seen.append(step)
    )
    assert seen == [(step, 10) for step in range(1, 11)]


def test_a_loss_that_is_not_finite_ends_training() -> None:
    calls = 0

    def diverging(module: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(module, batch) * (math.inf if calls == 3 else 1.0)

    with pytest.raises(TrainingDivergedError, match="after 3 batches"):
        train(model(), split(), diverging, settings(), device=CPU, seed=0)
