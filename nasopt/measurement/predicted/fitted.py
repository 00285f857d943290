"""The constants of the latency model: their values, what they were fitted on, and how far off predictions are."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nasopt.measurement.predicted.device_profiles import Positive, ProfileError, explained

FILE = "fitted/published.json"
FEW = 12
"""A group with fewer held-out values than this never has a narrower interval than all of them together."""
EFFICIENCIES = ("arithmetic", "attention", "bandwidth")
"""Constants that are a share of something, and so at most 1."""

Count: TypeAlias = Annotated[int, Field(ge=1)]


class GroupErrors(BaseModel):
    """Errors of predictions of held-out latencies.

    Attributes:
        count: the number of latencies.
        median: median absolute error, as a part of the measured value.
        p95: 95th percentile of the absolute error.
        tau: Kendall's rank correlation of predicted and measured values on each device, averaged with weights by count.
        interval: the `x` for which `1 / (1 + x) <= measured / predicted <= 1 + x` holds for `coverage` of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Count
    median: Annotated[float, Field(ge=0)]
    p95: Annotated[float, Field(ge=0)]
    tau: Annotated[float, Field(ge=-1, le=1)] | None
    interval: Positive


class HeldOut(BaseModel):
    """Errors by family (software, runtime and precision, as in `triton-2021/tensorrt/fp16`), and of all together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all: GroupErrors
    groups: dict[str, GroupErrors]

    def interval(self, family: str) -> float:
        """The interval of a family; never narrower than that of all where the family is small."""
        group = self.groups.get(family)
        if group is None:
            return self.all.interval
        return group.interval if group.count >= FEW else max(group.interval, self.all.interval)


class Fitted(BaseModel):
    """A fit of the latency model's constants to published latencies.

    Attributes:
        date: the day on which it was made.
        fitted_on: names the latencies it was made from, in words.
        rows: the number of these latencies.
        coverage: the share of held-out latencies that the intervals cover.
        constants: by name; a part after a colon names the family, software, runtime or device that a value is for.
        calibrated: for each family, the profiles whose latencies were used.
        ranges: for each family, the least and the largest value of each size.
        held_out_shape: errors for a model shape that was left out, on devices that were not.
        held_out_device: errors for a device that was left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: str
    fitted_on: str
    rows: Count
    coverage: Annotated[float, Field(gt=0, lt=1)]
    constants: dict[str, Positive]
    calibrated: dict[str, tuple[str, ...]]
    ranges: dict[str, dict[str, tuple[int, int]]]
    held_out_shape: HeldOut
    held_out_device: HeldOut

    @field_validator("constants")
    @classmethod
    def _efficiencies(cls, constants: dict[str, float]) -> dict[str, float]:
        for name, value in constants.items():
            if name.partition(":")[0] in EFFICIENCIES and value > 1:
                raise ValueError(f"the efficiency {name} = {value} is greater than 1")
        return constants


@lru_cache
def fitted() -> Fitted:
    """The fit that comes with the package."""
    file = resources.files("nasopt.measurement.predicted") / "profiles" / FILE
    return parse_fitted(file.read_text(encoding="utf-8"), FILE)


def parse_fitted(text: str, where: str) -> Fitted:
    """A fit from JSON text; `where` names it in errors.

    Raises:
        ProfileError: it lacks a field or holds an impossible value.
    """
    try:
        return Fitted.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ProfileError(f"{where}: the fitted constants are not valid JSON: {error}") from None
    except ValidationError as error:
        raise ProfileError(f"{where}: the fitted constants are wrong: {explained(error)}") from None
