"""Recipes of controls that were made elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nasopt.architecture.outside import OutsideModel
from nasopt.records.outside import OutsideRecipe

HUB = OutsideRecipe(OutsideModel("owner/student", "v1"))
LOCAL = OutsideRecipe(OutsideModel("/models/student"), "abc", 3)


@pytest.mark.parametrize("recipe", [HUB, LOCAL])
def test_json_gives_it_back(recipe: OutsideRecipe) -> None:
    assert OutsideRecipe.of(recipe.to_json()) == recipe


@pytest.mark.parametrize("recipe", [None, {}, {"layers": [0], "precision": "fp32"}])
def test_other_controls_are_none(recipe: dict[str, object] | None) -> None:
    assert OutsideRecipe.of(recipe) is None


def test_its_name_is_the_folders_or_the_hubs() -> None:
    assert (HUB.label, LOCAL.label) == ("owner/student", "student, trained")


def test_the_same_model_is_that_of_the_same_content_and_training() -> None:
    assert LOCAL.is_same(replace(LOCAL, model=OutsideModel("/elsewhere")))
    assert not LOCAL.is_same(replace(LOCAL, content="abd"))
    assert not LOCAL.is_same(replace(LOCAL, epochs=0))
    assert HUB.is_same(replace(HUB))
    assert not HUB.is_same(OutsideRecipe(OutsideModel("owner/student", "v2")))
