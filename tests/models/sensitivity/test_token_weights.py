"""Weights of tokens against gradients by finite differences of what a block writes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.sensitivity.gates import unit_blocks
from nasopt.models.sensitivity.token_weights import token_weights
from nasopt.models.surgery import cut
from nasopt.tasks.batches import Batch, PairBatch

Loss = Callable[[nn.Module, Batch], Tensor]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=60, **sizes)).eval().double()


def batch_of(size: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (size, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return Batch({"input_ids": ids, "attention_mask": mask}, ids[:, 0] % 2, torch.arange(size))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(**batch.inputs).logits, batch.labels)


def example_loss(model: nn.Module, batch: Batch, row: int) -> float:
    logits = model(**{name: values[row : row + 1] for name, values in batch.inputs.items()}).logits
    return float(functional.cross_entropy(logits, batch.labels[row : row + 1]))


def square_by_differences(
    model: PreTrainedModel, module: nn.Module | None, batch: Batch, row: int, token: int
) -> float:
    """The squared gradient of one example's loss by what a module writes at one token."""
    assert module is not None
    step, total = 1e-5, 0.0
    for channel in range(32):
        found = []
        for sign in (1, -1):
            change = torch.zeros(1, 6, 32, dtype=torch.float64)
            change[0, token, channel] = sign * step
            hook = module.register_forward_hook(lambda _, __, output, change=change: output + change)
            with torch.no_grad():
                found.append(example_loss(model, batch, row))
            hook.remove()
        total += ((found[0] - found[1]) / (2 * step)) ** 2
    return total


def test_weights_are_squared_gradients_with_a_mean_of_one_in_each_text(model: PreTrainedModel) -> None:
    batches = [batch_of(3, 0), batch_of(2, 1)]
    found = token_weights(model, batches, loss, floor=0.0)
    assert [len(weights) for weights in found] == [16 + 10] * 4
    projections = [block.projection for layer in unit_blocks(model) for block in layer]
    texts = [(batch, row) for batch in batches for row in range(len(batch.labels))]
    for place in (0, 1, 3):
        expected = []
        for batch, row in texts:
            tokens = [token for token in range(6) if batch.attention_mask[row, token]]
            squares = [square_by_differences(model, projections[place], batch, row, token) for token in tokens]
            expected += [square * len(squares) / sum(squares) for square in squares]
        torch.testing.assert_close(found[place], torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_the_floor_is_part_of_the_mean(model: PreTrainedModel) -> None:
    bare, floored = (token_weights(model, [batch_of(4, 0)], loss, floor=floor)[3] for floor in (0.0, 0.2))
    assert float(bare.min()) == 0.0  # after the last attention a classifier of the first token reads no other
    assert float(floored.min()) == pytest.approx(0.2)
    assert float(floored.mean()) == pytest.approx(1.0)
    torch.testing.assert_close(floored, 0.2 + 0.8 * bare)


def test_texts_of_a_pair_come_one_after_the_other(model: PreTrainedModel) -> None:
    first, second = batch_of(3, 0), batch_of(3, 1)
    both = token_weights(
        model, [PairBatch(first, second)], lambda model, pair: loss(model, pair.first) + 0 * loss(model, pair.second)
    )
    alone = token_weights(model, [first], loss)
    for pair, single in zip(both, alone, strict=True):
        assert len(pair) == 2 * len(single)
        torch.testing.assert_close(pair[: len(single)], single)
        assert bool((pair[len(single) :] == 1).all())  # the loss reads nothing of the second texts


def test_the_model_stays_as_it_is_and_empty_blocks_have_no_tokens(model: PreTrainedModel) -> None:
    smaller = cut(copy.deepcopy(model), Architecture((KeptUnits((), tuple(range(16))), KeptUnits((1,), ()))))
    frozen = next(smaller.parameters()).requires_grad_(False)
    found = token_weights(smaller, [batch_of(3, 0)], loss)
    assert [len(weights) for weights in found] == [0, 16, 16, 0]
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in list(smaller.parameters())[1:])
    assert all(parameter.grad is None for parameter in smaller.parameters())
    assert not any(module._forward_hooks for module in smaller.modules())


def test_a_loss_that_reads_nothing_weighs_all_tokens_alike(model: PreTrainedModel) -> None:
    found = token_weights(model, [batch_of(3, 0)], lambda model, batch: 0 * loss(model, batch))
    assert all(bool((weights == 1).all()) for weights in found)


def test_gradients_that_are_not_finite_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="not finite"):
        token_weights(model, [batch_of(3, 0)], lambda model, batch: float("inf") * loss(model, batch))
