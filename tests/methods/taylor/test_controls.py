"""The controls of the Taylor method."""

from __future__ import annotations

from nasopt.architecture.base import EncoderShape
from nasopt.methods.controls import Member
from nasopt.methods.taylor.controls import TaylorControls
from nasopt.methods.taylor.options import TaylorOptions
from nasopt.training.candidate import Lineage

SHAPE = EncoderShape(num_layers=12, num_heads=12, ffn_size=1536, hidden_size=384)
PARAMS = {"heads_kept": 36, "ffn_kept": 6400, "learning_rate": 1e-4}


def test_members_are_compared_at_equal_counts() -> None:
    controls = TaylorControls(TaylorOptions())
    assert controls.depth(PARAMS) == 6436
    assert controls.depth({}) is None


def test_random_units_are_trained_as_the_member_was() -> None:
    member = Member(3, PARAMS, "int8", "key", Lineage(0, distill_epochs=2))
    found = TaylorControls(TaylorOptions()).propose([member, member], SHAPE, random_masks=2, seed=5)
    trained = {"epochs": 2, "precision": "int8", "learning_rate": 1e-4}
    assert [(control.label, control.recipe, control.depth) for control in found] == [
        ("random-units-0", {"kind": "random-units", "like": "key", **trained, "seed": 5}, 6436),
        ("random-units-1", {"kind": "random-units", "like": "key", **trained, "seed": 6}, 6436),
        ("full-2", {"kind": "full", **trained}, 12 * (12 + 1536)),
    ]
