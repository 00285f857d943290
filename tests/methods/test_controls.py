"""Tests which controls are the same one."""

from __future__ import annotations

from nasopt.methods.controls import Control, distinct


def test_equal_recipes_are_one_control_under_the_first_label() -> None:
    found = distinct([Control("a", {"x": 1, "y": 2}), Control("b", {"z": 0}), Control("c", {"y": 2, "x": 1})])
    assert [item.label for item in found] == ["a", "b"]


def test_one_label_may_stand_for_several_recipes() -> None:
    wanted = [Control("first-2", {"layers": [0, 1], "precision": precision}, 2) for precision in ("fp32", "int8")]
    assert distinct(wanted) == wanted
