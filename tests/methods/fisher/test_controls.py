"""Controls of the fisher method: which ones there are, how much they are trained, and whom they are compared with."""

from __future__ import annotations

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.methods.controls import Member
from nasopt.methods.fisher.controls import FisherControls
from nasopt.methods.fisher.options import FisherOptions
from nasopt.training.candidate import Lineage

SHAPE = EncoderShape(num_layers=6, num_heads=12, ffn_size=1536, hidden_size=384)
CONTROLS = FisherControls(FisherOptions())
HALVED = Architecture((KeptUnits(tuple(range(6)), tuple(range(768))),) * 6)


def member(share: float, epochs: int, budget: float = 0.0, training: str = "distill") -> Member:
    params = {"latency_share": share, "precision": "fp32", "training": training, "criterion": "obs"}
    lineage = Lineage(0, distill_epochs=epochs, budget=budget)
    return Member(3, params, "fp32", "key", lineage, HALVED)


def cost(architecture: CandidateArchitecture) -> float:
    """100 for the whole model, by its heads."""
    assert isinstance(architecture, Architecture)
    return sum(len(units.heads) for units in architecture.layers if units is not None) / 72 * 100


def test_controls_have_the_share_and_the_training_of_the_member() -> None:
    found = CONTROLS.propose([member(0.35, 2)] * 2, SHAPE, random_masks=2, seed=5)
    made = {"distill_epochs": 2, "precision": "fp32", "criterion": "obs"}
    assert [(control.label, control.recipe, control.depth) for control in found] == [
        ("first-2", {"kind": "layers", "layers": [0, 1], "of": 6, **made}, 2),
        ("random-units-0", {"kind": "random-units", "share": 0.35, **made, "seed": 5}, None),
        ("random-units-1", {"kind": "random-units", "share": 0.35, **made, "seed": 6}, None),
        ("full-2", {"kind": "layers", "layers": [0, 1, 2, 3, 4, 5], "of": 6, **made, "criterion": "joint"}, 6),
    ]


def test_untrained_members_have_untrained_controls() -> None:
    assert [item.label for item in CONTROLS.propose([member(0.1, 0)], SHAPE, 1, 0)] == ["first-1", "random-units-0"]
    assert [item.label for item in CONTROLS.propose([member(0.95, 0)], SHAPE, 1, 0)] == ["random-units-0"]


def test_every_control_has_the_whole_budget_of_its_members() -> None:
    # An elastic base that cost 2.5 passes of the whole model, without and with an epoch of a half-sized one.
    found = CONTROLS.propose([member(0.3, 0, 250.0, "none"), member(0.3, 1, 300.0)], SHAPE, 1, 0, cost)
    epochs = {control.label: control.recipe["distill_epochs"] for control in found}
    # 2 of 6 layers cost 33.3 for an epoch, random units in the member's numbers 50, the whole model 100.
    assert epochs == {"first-2": 9, "random-units-0": 6, "full-3": 3}


def test_members_of_equal_depth_share_the_first_layers_of_the_largest_budget() -> None:
    small, large = member(0.30, 1, 40.0), member(0.37, 1, 60.0)
    found = CONTROLS.propose([small, large], SHAPE, 0, 0, cost)
    assert [(item.label, item.recipe["distill_epochs"]) for item in found] == [("first-2", 2), ("full-1", 1)]
    for one in (small, large):
        assert CONTROLS.is_alike(one.params, found[0].recipe, found[0].depth)
        assert not CONTROLS.is_alike(one.params, found[1].recipe, found[1].depth)
    assert not CONTROLS.is_alike(member(0.1, 1).params, found[0].recipe, found[0].depth)


def test_random_units_are_compared_at_their_own_share() -> None:
    (units,) = (item for item in CONTROLS.propose([member(0.3, 1)], SHAPE, 1, 0) if item.label == "random-units-0")
    assert CONTROLS.is_alike({"latency_share": 0.3}, units.recipe, units.depth)
    assert not CONTROLS.is_alike({"latency_share": 0.31}, units.recipe, units.depth)
    assert not CONTROLS.is_alike({}, units.recipe, units.depth)
