"""Batches: nothing lost, nothing mixed up, little padding."""

import torch

from nasopt.tasks.batches import EncodedSplit, sorted_batches, training_batches

TEXTS = [[5, 6], [7], [8, 9, 10, 11], [12, 13, 14]]


def split() -> EncodedSplit:
    lengths = torch.tensor([0, *[len(text) for text in TEXTS]])
    flat = torch.tensor([token for text in TEXTS for token in text], dtype=torch.int32)
    types = torch.ones_like(flat)
    columns = {"input_ids": flat, "token_type_ids": types}
    return EncodedSplit(columns, {"input_ids": 99, "token_type_ids": 0}, lengths.cumsum(0), torch.tensor([0, 1, 0, 1]))


def test_a_batch_is_padded_to_its_own_longest_text() -> None:
    batch = split().batch(torch.tensor([1, 3]))
    assert batch.inputs["input_ids"].tolist() == [[7, 99, 99], [12, 13, 14]]
    assert batch.inputs["token_type_ids"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [1, 1]


def test_training_batches_cover_every_example_once() -> None:
    lengths = torch.randint(1, 60, (1000,), generator=torch.Generator().manual_seed(0))
    batches = training_batches(lengths, 16, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(batches).tolist()) == list(range(1000))
    assert max(len(batch) for batch in batches) == 16


def test_training_batches_hold_little_padding_and_stay_random() -> None:
    lengths = torch.randint(1, 60, (3200,), generator=torch.Generator().manual_seed(0))
    batches = training_batches(lengths, 16, torch.Generator().manual_seed(1))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert int(lengths.sum()) / padded > 0.95
    other = training_batches(lengths, 16, torch.Generator().manual_seed(2))
    assert not torch.equal(torch.cat(batches), torch.cat(other))
    means = torch.tensor([lengths[batch].float().mean() for batch in batches])
    assert abs(torch.corrcoef(torch.stack([means, torch.arange(len(means)).float()]))[0, 1]) < 0.3


def test_sorted_batches_are_the_same_every_time() -> None:
    lengths = split().lengths
    assert [batch.tolist() for batch in sorted_batches(lengths, 3)] == [[2, 3, 0], [1]]


def test_the_fingerprint_follows_the_content() -> None:
    one, other = split(), split()
    assert one.fingerprint == other.fingerprint
    other.labels[0] = 1
    changed = EncodedSplit(other.columns, other.padding, other.offsets, other.labels)
    assert changed.fingerprint != one.fingerprint


def test_a_selection_is_a_split_of_its_own() -> None:
    found = split().select(torch.tensor([2, 0, 3]))
    assert len(found) == 3
    assert found.lengths.tolist() == [4, 2, 3]
    assert found.labels.tolist() == [0, 0, 1]
    everything = found.batch(torch.arange(3)).inputs
    assert everything["input_ids"].tolist() == [[8, 9, 10, 11], [5, 6, 99, 99], [12, 13, 14, 99]]
    assert everything["token_type_ids"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
