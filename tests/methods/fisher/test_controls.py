"""Controls of the fisher method: which ones there are."""

from __future__ import annotations

from nasopt.architecture.base import EncoderShape
from nasopt.methods.controls import Member
from nasopt.methods.fisher.controls import FisherControls
from nasopt.methods.fisher.options import FisherOptions
from nasopt.training.candidate import Lineage

SHAPE = EncoderShape(num_layers=6, num_heads=12, ffn_size=1536, hidden_size=384)
CONTROLS = FisherControls(FisherOptions())


def member(share: float, epochs: int) -> Member:
    params = {"latency_share": share, "precision": "fp32", "training": "distill", "criterion": "obs"}
    return Member(3, params, "fp32", "key", Lineage(0, distill_epochs=epochs))


def test_members_are_compared_at_equal_shares() -> None:
    assert CONTROLS.depth({"latency_share": 0.35}) == 350
    assert CONTROLS.depth({}) is None


def test_controls_have_the_share_and_the_training_of_the_member() -> None:
    found = CONTROLS.propose([member(0.35, 2)] * 2, SHAPE, random_masks=2, seed=5)
    made = {"distill_epochs": 2, "precision": "fp32", "criterion": "obs"}
    assert [(control.label, control.recipe, control.depth) for control in found] == [
        ("first-2", {"kind": "layers", "layers": [0, 1], "share": 350, **made}, 350),
        ("random-units-0", {"kind": "random-units", "like": "key", **made, "seed": 5}, 350),
        ("random-units-1", {"kind": "random-units", "like": "key", **made, "seed": 6}, 350),
        ("full-2", {"kind": "layers", "layers": [0, 1, 2, 3, 4, 5], "share": 1000, **made}, 1000),
    ]


def test_untrained_members_have_untrained_controls() -> None:
    assert [item.label for item in CONTROLS.propose([member(0.1, 0)], SHAPE, 1, 0)] == ["first-1", "random-units-0"]
    assert [item.label for item in CONTROLS.propose([member(0.95, 0)], SHAPE, 1, 0)] == ["random-units-0"]
