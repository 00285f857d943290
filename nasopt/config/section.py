"""The base class of every table of the study file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the study file: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
