"""Controls of AdaBERT: the list of them, and how they are made."""

from __future__ import annotations

import pytest

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.cells import OPERATIONS
from nasopt.methods.adabert.controls import AdaBERTControls, random_cells
from nasopt.methods.adabert.options import AdaBERTOptions
from nasopt.methods.controls import Member
from nasopt.training.candidate import Lineage

SHAPE = EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=64)


def test_random_cells_differ_and_fewer_are_the_first_of_more() -> None:
    many = random_cells(3, 40, seed=1)
    assert len(set(many)) == 40
    assert many[:5] == random_cells(3, 5, seed=1)
    assert {cell for cells in many for cell in cells} == set(OPERATIONS)
    assert sorted(random_cells(1, 100, seed=0)) == sorted((operation,) for operation in OPERATIONS)


def member(search: int, distill: int) -> Member:
    return Member(1, {}, "fp32", "key", Lineage(0, distill_epochs=distill, search_epochs=search))


def test_controls_take_the_budget_of_the_line() -> None:
    controls = AdaBERTControls(AdaBERTOptions(cells=2, layer_pairs=((0, 0),)))
    found = controls.propose([member(15, 3), member(15, 3)], SHAPE, random_masks=4, seed=0)
    assert [control.label for control in found] == ["bag-of-embeddings", *[f"random-cells-{i}" for i in range(4)]]
    assert found[0].recipe == {"kind": "bag", "epochs": 18}
    assert all(control.depth == controls.depth({}) for control in found)  # all are compared with all
    assert controls.propose([], SHAPE, random_masks=4, seed=0) == []


def test_the_bag_gets_the_steps_of_the_choice_too() -> None:
    published = AdaBERTOptions(cells=2, layer_pairs=((0, 0),))
    assert published.search_passes == 15  # the choice is made on the same batches
    options = published.model_copy(update={"architecture_split": 0.2, "warmup_epochs": 5})
    assert options.search_passes == pytest.approx(0.8 * (15 + 10))
    found = AdaBERTControls(options).propose([member(15, 3)], SHAPE, random_masks=0, seed=0)
    assert [control.recipe["epochs"] for control in found] == [20 + 3]


def test_each_length_of_line_has_its_bag() -> None:
    controls = AdaBERTControls(AdaBERTOptions(cells=2, layer_pairs=((0, 0),)))
    found = controls.propose([member(15, 3), member(15, 1)], SHAPE, random_masks=0, seed=0)
    assert [control.recipe["epochs"] for control in found] == [16, 18]
