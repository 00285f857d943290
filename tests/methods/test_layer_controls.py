"""Controls of encoder methods: their layers and their budgets, made once."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.methods.controls import Member
from nasopt.methods.genetic.method import GeneticControls
from nasopt.methods.layer_controls import (
    Budget,
    depth_of,
    evenly_spaced,
    layer_controls,
    layer_masks,
    whole_layers,
)
from nasopt.methods.layer_controls import _random_masks as random_masks_of
from nasopt.training.candidate import Lineage

SHAPE = EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=64)


def member(
    number: int,
    kept: tuple[int, ...],
    heads: int = 4,
    precision: Precision = "fp32",
    finetune: int = 1,
    distill: int = 0,
) -> Member:
    """A member of the front of a genetic search."""
    params: dict[str, object] = {}
    for layer in range(3):
        keeps = layer in kept
        params |= {f"layer_{layer}": int(keeps), f"heads_{layer}": heads * keeps, f"ffn_{layer}": 128 * keeps}
    return Member(number, params, precision, f"key{number}", Lineage(0, finetune, distill))


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        (12, 6, (1, 3, 5, 7, 9, 11)),
        (6, 2, (1, 4)),
        (6, 3, (1, 3, 5)),
        (6, 1, (3,)),
        (6, 4, (0, 2, 3, 5)),
        (3, 3, (0, 1, 2)),
    ],
)
def test_evenly_spaced_layers(layers: int, depth: int, expected: tuple[int, ...]) -> None:
    assert evenly_spaced(layers, depth) == expected


@pytest.mark.parametrize(("layers", "depth"), [(6, 3), (12, 6), (24, 12), (6, 1)])
def test_masks_are_distinct_and_of_one_depth(layers: int, depth: int) -> None:
    masks = dict(layer_masks(layers, depth, 5, seed=0))
    assert masks[f"first-{depth}"] == tuple(range(depth))
    assert masks[f"last-{depth}"] == tuple(range(layers - depth, layers))
    drawn = [mask for label, mask in masks.items() if label.startswith("random")]
    assert len(drawn) == min(5, math.comb(layers, depth) - len(set(masks.values()) - set(drawn)))
    named = set(masks.values()) - set(drawn)
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & named
    for mask in masks.values():
        assert mask == tuple(sorted(set(mask)))
        assert (len(mask), min(mask) >= 0, max(mask) < layers) == (depth, True, True)


def test_more_random_masks_go_on_where_fewer_stopped_and_seeds_differ() -> None:
    few, many, other = layer_masks(12, 6, 3, 0), layer_masks(12, 6, 8, 0), layer_masks(12, 6, 8, 1)
    assert many[: len(few)] == few
    assert many != other
    assert layer_masks(12, 5, 3, 0)[3:] != few[3:]


def test_small_spaces_give_what_there_is() -> None:
    masks = dict(layer_masks(3, 2, 5, seed=0))
    assert masks == {"first-2": (0, 1), "last-2": (1, 2), "even-2": (0, 2)}


def test_large_spaces_are_drawn_from() -> None:
    assert math.comb(48, 24) > 10_000
    drawn = list(islice(random_masks_of(48, 24, np.random.default_rng(0)), 50))
    assert len(set(drawn)) == 50
    counts = np.bincount(np.concatenate(drawn), minlength=48)
    assert abs(counts - 25).max() < 5 * math.sqrt(50 / 4)


def test_members_of_one_budget_share_controls() -> None:
    budgets = [Budget(2, 1, 0, "fp32"), Budget(2, 1, 0, "fp32"), Budget(2, 1, 0, "int8"), Budget(3, 2, 1, "fp32")]
    controls = layer_controls(budgets, 3, 5, 0)
    assert [(item.label, item.recipe["precision"], item.depth) for item in controls] == [
        ("first-2", "fp32", 2),
        ("first-2", "int8", 2),  # after its like, whose weights it shares
        ("last-2", "fp32", 2),
        ("last-2", "int8", 2),
        ("even-2", "fp32", 2),
        ("even-2", "int8", 2),
        ("full-3", "fp32", 3),
    ]
    assert controls[0].recipe == {"layers": [0, 1], "finetune_epochs": 1, "distill_epochs": 0, "precision": "fp32"}
    assert controls[-1].recipe == {"layers": [0, 1, 2], "finetune_epochs": 2, "distill_epochs": 1, "precision": "fp32"}


def test_budgets_come_from_the_lineage() -> None:
    found = Budget.of(member(4, (0, 2), precision="int8", finetune=3, distill=2))
    assert found == Budget(depth=2, finetune_epochs=3, distill_epochs=2, precision="int8")


def cost(architecture: CandidateArchitecture) -> float:
    """The budget of an epoch over 90 texts, where layers cost alike, and their heads as much as their neurons."""
    assert isinstance(architecture, Architecture)
    units = [item for item in architecture.layers if item is not None]
    return 90 * sum(len(item.heads) / 8 + len(item.neurons) / 256 for item in units) / 3


def test_controls_make_up_for_larger_parents() -> None:
    """A member of one layer whose parent, trained as long, had all three: 90 + 30 passes of the base's size."""
    found = member(7, (1,), finetune=2)
    found = replace(found, lineage=replace(found.lineage, budget=120.0))
    recipes = {item.label: item.recipe for item in GeneticControls().propose([found], SHAPE, 1, 0, cost)}
    assert {recipe["finetune_epochs"] for label, recipe in recipes.items() if label != "full-2"} == {4}
    assert recipes["full-2"]["finetune_epochs"] == 2  # no fewer epochs, though each costs more
    distilled = replace(found, lineage=replace(found.lineage, finetune_epochs=1, distill_epochs=1))
    assert Budget.of(distilled, 30.0) == Budget(1, 1, 3, "fp32")
    assert Budget.of(distilled, 30.1) == Budget(1, 1, 3, "fp32")  # a sample's lengths differ a little


def test_an_architecture_of_its_own_costs_what_it_has() -> None:
    found = member(7, (0, 2), heads=1, finetune=2)  # layers cost 1/4 / 2 + 1/2: an epoch 37.5
    found = replace(found, lineage=replace(found.lineage, budget=97.5))
    recipes = {item.label: item.recipe for item in GeneticControls().propose([found], SHAPE, 0, 0, cost)}
    assert recipes["same-as-7"]["finetune_epochs"] == 3
    assert recipes["first-2"]["finetune_epochs"] == 2


def test_older_members_are_compared_by_their_epochs() -> None:
    found = member(7, (1,), finetune=2)
    assert found.lineage.budget == 0.0
    assert GeneticControls().propose([found], SHAPE, 1, 0, cost) == GeneticControls().propose([found], SHAPE, 1, 0)


def test_whole_layers_of_a_genotype() -> None:
    assert whole_layers(member(1, (0, 2)).params, SHAPE) == (0, 2)
    assert whole_layers(member(1, (0, 2), heads=3).params, SHAPE) is None


def test_the_genetic_method_adds_the_base_model_and_the_same_architecture() -> None:
    pruned, whole = member(7, (0, 2), heads=3), member(8, (0, 2))
    labels = {item.label: item for item in GeneticControls().propose([pruned, whole], SHAPE, 5, 0)}
    # All three masks of depth 2 are named ones, so the whole member's own is `even-2`.
    assert list(labels) == ["first-2", "last-2", "even-2", "full-1", "same-as-7"]
    assert labels["same-as-7"].recipe["cut_as"] == "key7"
    assert labels["same-as-7"].depth == 2
    assert labels["full-1"].depth == 3


def test_depth_counts_kept_layers() -> None:
    assert depth_of({"layer_0": 1, "layer_1": 0, "layer_2": 1, "heads_1": 4}) == 2
    assert depth_of({"cell_0": "conv3"}) is None
