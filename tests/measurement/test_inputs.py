"""The batches that are measured."""

from __future__ import annotations

from dataclasses import replace

import torch

from nasopt.config.study import LatencyConfig
from nasopt.measurement.inputs import fixed_batch, inputs_of, shapes_of
from nasopt.measurement.subject import Subject

CPU = torch.device("cpu")
FIXED = LatencyConfig.model_validate({"batch_size": 2, "sequence_length": 16})
REAL = LatencyConfig.model_validate({"batch_size": 2, "sequence_length": 8, "lengths": "validation"})


def test_a_fixed_batch_has_ordinary_tokens_at_full_length(subject: Subject) -> None:
    (batch,) = inputs_of(FIXED, subject, CPU)
    assert shapes_of(FIXED, subject.lengths) == [(2, 16)] == [tuple(batch["input_ids"].shape)]
    assert batch["attention_mask"].all()
    assert not (batch["input_ids"] == 0).any(), "padding is special"
    again = fixed_batch(FIXED, subject.base_model, subject.special_ids)
    assert torch.equal(again["input_ids"], batch["input_ids"])


def test_real_lengths_are_cut_at_the_objectives_length(subject: Subject) -> None:
    batches = inputs_of(REAL, subject, CPU)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == shapes_of(REAL, subject.lengths)
    assert {length for _, length in shapes_of(REAL, subject.lengths)} <= {4, 5, 7, 8}
    assert max(length for _, length in shapes_of(REAL, subject.lengths)) == 8


def test_tokens_that_a_smaller_vocabulary_lacks_are_replaced(subject: Subject) -> None:
    whole = inputs_of(REAL, subject, CPU)
    batches = inputs_of(REAL, replace(subject, vocabulary=10), CPU)
    assert max(int(batch["input_ids"].max()) for batch in batches) == 9
    for mine, its in zip(batches, whole, strict=True):
        assert torch.equal(mine["input_ids"], its["input_ids"].clamp(max=9))
        assert torch.equal(mine["attention_mask"], its["attention_mask"])
