"""FLOPs against the formula of a transformer, written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.measurement.measured.flops import count_flops
from nasopt.models.surgery import cut


def bert(attention: str) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=3,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).eval()


def by_hand(layers: list[tuple[int, int]], batch: int, tokens: int) -> int:
    """FLOPs of a BERT 32 wide with `layers` of (heads of 8 channels, neurons), with pooler and 3 classes."""
    total = batch * (2 * 32 * 32 + 2 * 32 * 3)
    for heads, neurons in layers:
        projections = 4 * 2 * 32 * heads * 8
        feed_forward = 2 * 2 * 32 * neurons
        scores_and_sums = 2 * 2 * tokens * heads * 8
        total += batch * tokens * (projections + feed_forward + scores_and_sums)
    return total


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_flops_of_a_whole_and_of_a_cut_bert(attention: str, padded: bool) -> None:
    ids = torch.randint(1, 50, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0  # padding is computed, too
    inputs = {"input_ids": ids, "attention_mask": mask}
    model = bert(attention)
    assert count_flops(model, inputs) == by_hand([(4, 128)] * 3, 2, 10)
    cut(model, Architecture((KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((1,), tuple(range(128))))))
    assert count_flops(model, inputs) == by_hand([(2, 64), (1, 128)], 2, 10)


def test_blocks_that_return_a_parameter() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias

    model = nn.Sequential(Constant(), nn.Linear(4, 3, bias=False))
    assert count_flops(model, {"input": torch.zeros(2, 4)}) == 2 * 2 * 4 * 3
    assert all(parameter.requires_grad for parameter in model.parameters())
