"""The training loop: it learns, it is reproducible, it trains what it should, it notices divergence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nasopt.config.study import TrainingConfig
from nasopt.errors import TrainingDivergedError
from nasopt.tasks.batches import Batch, EncodedSplit
from nasopt.training.loop import EpochCallback, SecondOptimizer, train
from nasopt.training.state import TrainingState

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


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def head_apart(bag: Bag, **changes: object) -> SecondOptimizer:
    return SecondOptimizer([bag.classifier.weight], 0.02, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("examples", [None, torch.arange(0, 80, 3)])
@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_training_that_goes_on_ends_as_if_it_had_not_stopped(examples: Tensor | None, epochs_done: int) -> None:
    whole, stopped, resumed = model(), model(), model(seed=9)
    states = []

    def keep(state: TrainingState) -> None:
        if state.epochs == epochs_done:
            tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
            states.append(TrainingState(state.epochs, state.steps, tensors))

    def run(bag: Bag, on_epoch: EpochCallback | None = None, start: TrainingState | None = None) -> None:
        def noisy(module: nn.Module, batch: Batch) -> Tensor:
            return cross_entropy(module, batch) * torch.rand(())

        second = head_apart(bag, examples=examples, first_epoch=1)
        train(bag, split(), noisy, settings(), device=CPU, seed=2, second=second, on_epoch=on_epoch, start=start)

    run(whole)
    run(stopped, on_epoch=keep)
    run(resumed, start=states[0])
    assert same(weights(whole), weights(stopped))
    assert same(weights(whole), weights(resumed))


def test_the_second_optimizer_waits_for_its_epoch() -> None:
    bag = model()
    before = bag.classifier.weight.detach().clone()
    seen = []
    train(
        bag,
        split(),
        cross_entropy,
        settings(epochs=3),
        device=CPU,
        seed=0,
        second=head_apart(bag, first_epoch=2),
        on_epoch=lambda state: seen.append(torch.equal(bag.classifier.weight, before)),
    )
    assert seen == [True, True, False]


def test_the_second_optimizer_sees_its_own_examples_only() -> None:
    bag = model()
    mine, its = torch.arange(0, 60), torch.arange(60, 80)
    batches: list[Tensor] = []

    def watching(module: nn.Module, batch: Batch) -> Tensor:
        batches.append(batch.indices)
        return cross_entropy(module, batch)

    second = head_apart(bag, examples=its)
    result = train(bag, split(), watching, settings(epochs=2), device=CPU, seed=0, examples=mine, second=second)
    assert torch.cat(batches[0::2]).sort().values.tolist() == sorted([*mine.tolist()] * 2)
    assert set(torch.cat(batches[1::2]).tolist()) == set(its.tolist())
    assert result.tokens == 2 * int(split().lengths[mine].sum())


def test_joint_training_is_one_pass_with_two_optimizers() -> None:
    bag, calls = model(), 0

    def counting(module: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(module, batch)

    before = weights(bag)
    result = train(bag, split(), counting, settings(epochs=1), device=CPU, seed=0, second=head_apart(bag))
    assert calls == result.steps
    assert not any(torch.equal(one, other) for one, other in zip(before, weights(bag), strict=True))


def test_the_losses_of_several_passes_add_up() -> None:
    class Twice(nn.Module):
        """A part of the model that computes the same with twice the logits."""

        def __init__(self, bag: Bag) -> None:
            super().__init__()
            self.bag = bag

        def forward(self, **inputs: Tensor) -> Tensor:
            return 2 * self.bag(**inputs)

    def summed(module: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(module, batch) + cross_entropy(Twice(bag_of_one), batch)

    bag_of_one, bag = model(), model()
    one = train(bag_of_one, split(), summed, settings(epochs=2), device=CPU, seed=0)
    batches: list[int] = []

    def passes(batch: Batch) -> list[nn.Module]:
        batches.append(len(batch.labels))
        return [bag, Twice(bag)]

    two = train(bag, split(), cross_entropy, settings(epochs=2), device=CPU, seed=0, passes=passes)
    assert sum(batches) == 2 * len(split())
    assert two.loss == pytest.approx(one.loss, rel=1e-2)
    for mine, theirs in zip(weights(bag), weights(bag_of_one), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)
