import numpy as np
import pytest
import torch

from nasopt.measurement.lengths import sampled_batches, shortened


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 64), (7, 10), (16, 4), (32, 4), (64, 4)])
def test_at_least_64_texts_in_at_least_4_whole_batches(batch_size: int, batches: int) -> None:
    found = sampled_batches(1000, batch_size)
    assert [len(batch) for batch in found] == [batch_size] * batches
    texts = torch.cat(found)
    assert len(set(texts.tolist())) == len(texts), "without replacement"
    assert texts.min() >= 0
    assert texts.max() < 1000


def test_the_sample_is_the_same_every_time() -> None:
    torch.manual_seed(1)
    first = torch.cat(sampled_batches(500, 8))
    torch.manual_seed(2)
    assert torch.equal(first, torch.cat(sampled_batches(500, 8)))


def test_a_small_split_is_gone_through_again() -> None:
    texts = torch.cat(sampled_batches(10, 32)).tolist()
    assert len(texts) == 128
    assert sorted(np.unique(texts, return_counts=True)[1].tolist()) == [12, 12] + [13] * 8


def test_batches_are_cut_at_the_longest_allowed() -> None:
    inputs = {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.ones(2, 6)}
    assert {name: tensor.shape for name, tensor in shortened(inputs, 4).items()} == dict.fromkeys(inputs, (2, 4))
    assert shortened(inputs, 9)["input_ids"].shape == (2, 6)
