"""The training loop on a GPU: bf16 autocast, random states, interruptions, divergence, a GPU without memory left."""

from __future__ import annotations

import math

import pytest
import torch
from gpu import CUDA, needs_cuda
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from nasopt.config.study import TrainingConfig
from nasopt.errors import TrainingDivergedError
from nasopt.tasks.batches import Batch, EncodedSplit
from nasopt.training.loop import FINITE_CHECK_STEPS, train
from nasopt.training.state import TrainingState

pytestmark = needs_cuda

TEXTS = 320


def split() -> EncodedSplit:
    """Texts of 1 to 12 tokens; those of class 0 hold a 1, those of class 1 a 2."""
    texts = [[3 + i % 5] * (i % 12) + [label + 1] for i in range(TEXTS // 2) for label in (0, 1)]
    offsets = torch.tensor([0, *[len(text) for text in texts]]).cumsum(0)
    flat = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    masks = torch.ones_like(flat)
    return EncodedSplit(
        {"input_ids": flat, "attention_mask": masks},
        {"input_ids": 0, "attention_mask": 0},
        offsets,
        torch.tensor([0, 1] * (TEXTS // 2)),
    )


def model() -> BertForSequenceClassification:
    with torch.random.fork_rng(devices=[CUDA]):
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=20
        )
        return BertForSequenceClassification(config)


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(module(**batch.inputs).logits.float(), batch.labels)


def settings(**changes: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"epochs": 4, "batch_size": 16, "learning_rate": 3e-3, **changes})


def test_it_learns_with_products_in_bf16_and_weights_in_fp32() -> None:
    seen = set()

    def watched(module: nn.Module, batch: Batch) -> Tensor:
        logits = module(**batch.inputs).logits
        seen.add(logits.dtype)
        return nn.functional.cross_entropy(logits.float(), batch.labels)

    bert = model()
    result = train(bert, split(), watched, settings(), device=CUDA, seed=0)
    assert result.loss < 0.1
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in bert.parameters()} == {torch.float32}
    assert {parameter.device for parameter in bert.parameters()} == {CUDA}


def test_random_states_are_left_alone() -> None:
    torch.cuda.manual_seed_all(7)
    states = torch.get_rng_state(), torch.cuda.get_rng_state(CUDA)
    train(model(), split(), cross_entropy, settings(epochs=1), device=CUDA, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(CUDA), states[1])


def test_a_training_that_goes_on_ends_as_if_it_had_not_stopped() -> None:
    """Dropout draws on the GPU. Sums of gradients are in no fixed order there, so not bit for bit."""
    states = []

    def keep(state: TrainingState) -> None:
        if state.epochs == 2:
            tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
            states.append(TrainingState(state.epochs, state.steps, tensors))

    def trained(start: TrainingState | None = None, seed: int = 2) -> dict[str, Tensor]:
        bert = model()
        chosen = settings(learning_rate=3e-4)
        train(bert, split(), cross_entropy, chosen, device=CUDA, seed=seed, on_epoch=keep, start=start)
        return bert.state_dict()

    whole, other = trained(), trained(seed=5)
    resumed = trained(states[0])
    assert "random.cuda" in states[0].tensors

    def distance(weights: dict[str, Tensor]) -> float:
        return max(float((tensor - whole[name]).abs().max()) for name, tensor in weights.items())

    assert distance(resumed) < 1e-4
    assert distance(other) > 1e-3


def test_a_loss_that_is_not_finite_ends_training_at_the_next_look() -> None:
    calls = 0

    def diverging(module: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(module, batch) * (math.inf if calls == 3 else 1.0)

    with pytest.raises(TrainingDivergedError, match=f"after {FINITE_CHECK_STEPS} batches"):
        train(model(), split(), diverging, settings(epochs=2), device=CUDA, seed=0)
