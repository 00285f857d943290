"""The recipe of a control that was made elsewhere: where its model is, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nasopt.architecture.outside import OutsideModel

OUTSIDE = "outside"
"""The key of the model's place in the recipe, which other controls' recipes lack."""


@dataclass(frozen=True)
class OutsideRecipe:
    """A model from outside a study, as a control.

    Attributes:
        model: where it comes from.
        content: a hash of its folder, or the commit on the hub; None where that is not known.
        epochs: the epochs of its training on the study's data; 0 for none.
    """

    model: OutsideModel
    content: str | None = None
    epochs: int = 0

    @property
    def label(self) -> str:
        """Its name: the folder's, or the id on the hub."""
        source = self.model.source
        name = PurePath(source).name if PurePath(source).is_absolute() else source
        return f"{name}, trained" if self.epochs else name

    def is_same(self, other: OutsideRecipe) -> bool:
        """Whether the other one gives the same model: of the same content, wherever that lies, trained as long."""
        if self.content is None or other.content is None:
            return self == other
        return self.content == other.content and self.epochs == other.epochs

    @classmethod
    def of(cls, recipe: Mapping[str, Any] | None) -> OutsideRecipe | None:
        """The recipe of a control; None for one of another kind."""
        if recipe is None or OUTSIDE not in recipe:
            return None
        model = OutsideModel(recipe[OUTSIDE], recipe.get("revision"), recipe.get("new_head", False))
        return cls(model, recipe.get("content"), recipe.get("finetune_epochs", 0))

    def to_json(self) -> dict[str, Any]:
        """The recipe as a control stores it."""
        return {
            OUTSIDE: self.model.source,
            "revision": self.model.revision,
            "new_head": self.model.new_head,
            "content": self.content,
            "finetune_epochs": self.epochs,
            "distill_epochs": 0,
            "precision": "fp32",
        }
