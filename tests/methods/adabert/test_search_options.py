"""Options of AdaBERT's search: values that cannot be, and how tau and the efficiency weight move."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nasopt.architecture.cells import CellArchitecture
from nasopt.methods.adabert.search_options import SearchOptions


def options(**changes: object) -> SearchOptions:
    return SearchOptions.model_validate(changes)


def test_published_defaults() -> None:
    published = options()
    assert (published.task_weight, published.distillation_weight, published.efficiency_weight) == (0.2, 0.8, 1.5)
    assert published.layer_pairs == ((0, 0), (1, 3), (2, 6))
    assert (published.hidden_size, published.search_epochs) == (256, 15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_weight": 0, "distillation_weight": 0, "efficiency_weight": 0}, "all 0"),
        ({"task_weight": 0, "distillation_weight": 0}, "the network would learn nothing"),
        ({"task_weight": 0, "layer_pairs": []}, "the network would learn nothing"),
        ({"cells": 2, "layer_pairs": [[3, 3]]}, r"\(3, 3\): the student has the hidden states 0 to 2"),
        ({"layer_pairs": [[-1, 3]]}, "0 to 6"),
        ({"layer_pairs": [[1, -3]]}, "no hidden state -3"),
        ({"layer_pairs": [[1, 3], [1, 3]]}, "twice"),
        ({"search_epochs": 3, "warmup_epochs": 3}, "none is left to choose"),
        ({"tau_end": 0}, "greater than 0"),
        ({"efficiency_weight": float("inf")}, "finite"),
        ({"architecture_split": 1.0}, "less than 1"),
        ({"embedding_rank": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**change)


def test_tau_falls_by_the_same_factor_each_epoch() -> None:
    annealed = options(search_epochs=4, tau_start=8.0, tau_end=1.0)
    assert [annealed.tau(epoch) for epoch in range(4)] == pytest.approx([8.0, 4.0, 2.0, 1.0])
    assert options(search_epochs=1, tau_start=5.0, tau_end=1.0).tau(0) == 5.0


def test_the_efficiency_weight_rises_after_the_warm_up() -> None:
    rising = options(search_epochs=8, warmup_epochs=2, efficiency_warmup=3, efficiency_weight=2.0)
    weights = [rising.efficiency_weight_in(epoch) for epoch in range(8)]
    assert weights == pytest.approx([0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert options().efficiency_weight_in(0) == 1.5


def test_pairs_of_skipped_cells_are_gone() -> None:
    pairs = options(cells=3, layer_pairs=[[0, 0], [1, 2], [2, 4], [3, 6]])
    kept = pairs.surviving_pairs(CellArchitecture(("skip", "conv3", "skip"), 8))
    assert [pairs.layer_pairs[position] for position in kept] == [(0, 0), (2, 4)]
    assert pairs.surviving_pairs(CellArchitecture((), 8)) == (0,)


def test_the_teacher_is_asked_for_each_layer_once() -> None:
    assert options(cells=3, layer_pairs=[[0, 6], [1, 3], [2, 6], [3, 0]]).teacher_layers == (0, 3, 6)
