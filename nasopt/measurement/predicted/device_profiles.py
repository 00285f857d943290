"""Profiles of GPUs that need not be present: their datasheets as JSON files beside this module."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nasopt.errors import NasoptError, choices

NumberFormat: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
"""The precisions that a prediction can be made for, which are those that matrix units compute in."""
NUMBER_FORMATS: tuple[NumberFormat, ...] = get_args(NumberFormat)
ELEMENT_BYTES: dict[NumberFormat, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Bytes of a stored number; tf32 is a way to multiply numbers that are stored in 32 bits."""

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_FOLDER = resources.files("nasopt.measurement.predicted") / "profiles"


class ProfileError(NasoptError):
    """A device profile that does not exist, or holds an impossible value."""


class DeviceProfile(BaseModel):
    """The datasheet of a GPU.

    Attributes:
        name: what the profile is called in commands and study files.
        product: the device's name as its driver reports it.
        aliases: other names of the profile.
        multiprocessors: the number of them.
        boost_clock_ghz: their highest clock.
        peak_tflops: dense rate of matrix products (10^12 operations per second; a multiply-add is 2) by precision.
        bandwidth_gbs: the memory's bandwidth, 10^9 bytes per second.
        l2_mb: second-level cache, 10^6 bytes.
        memory_gb: memory, 10^9 bytes.
        power_w: the power that the board may draw.
        transistors_billion: transistors of the whole chip, which leak whether they compute or not.
        process_nm: the name of the manufacturing process, which says what an operation costs in energy.
        compute_capability: as in NVIDIA's CUDA documentation.
        source: the document that says all this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    product: str
    aliases: tuple[str, ...] = ()
    multiprocessors: Annotated[int, Field(gt=0, le=1000)]
    boost_clock_ghz: Annotated[float, Field(gt=0, lt=10)]
    peak_tflops: Annotated[dict[NumberFormat, Positive], Field(min_length=1)]
    bandwidth_gbs: Positive
    l2_mb: Positive
    memory_gb: Positive
    power_w: Positive
    transistors_billion: Positive
    process_nm: Positive
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    source: Annotated[str, Field(min_length=1)]


@lru_cache
def profiles() -> dict[str, DeviceProfile]:
    """The profiles that come with the package, by name."""
    files = sorted((item for item in _FOLDER.iterdir() if item.name.endswith(".json")), key=lambda item: item.name)
    read = [parse_profile(item.read_text(encoding="utf-8"), item.name) for item in files]
    return {profile.name: profile for profile in read}


def find_profile(name: str) -> DeviceProfile:
    """The profile of that name (in any case) or alias, or in the JSON file of that path.

    Raises:
        ProfileError: there is none, or the file is wrong.
    """
    known = profiles()
    for profile in known.values():
        if name.lower() in (profile.name, *profile.aliases):
            return profile
    if name.endswith(".json") or "/" in name:
        return read_profile(Path(name))
    raise ProfileError(f"no device profile {name!r}; there are {choices(known)}, or name a JSON file with one")


def read_profile(path: Path) -> DeviceProfile:
    """The profile in a JSON file.

    Raises:
        ProfileError: the file cannot be read, lacks a field, or holds an impossible value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ProfileError(f"{path}: the device profile cannot be read ({reason})") from None
    return parse_profile(text, str(path))


def parse_profile(text: str, where: str) -> DeviceProfile:
    """A profile from JSON text; `where` names it in errors."""
    try:
        return DeviceProfile.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ProfileError(f"{where}: the device profile is not valid JSON: {error}") from None
    except ValidationError as error:
        raise ProfileError(f"{where}: the device profile is wrong: {explained(error)}") from None


def explained(error: ValidationError) -> str:
    """Every mistake of a JSON document on one line."""
    return "; ".join(_mistake(item["loc"], item["msg"], item["type"], item["input"]) for item in error.errors())


def _mistake(place: tuple[int | str, ...], message: str, kind: str, value: object) -> str:
    field = ".".join(str(part) for part in place if part != "[key]") or "the document"
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is not a field of it"
    return f"{field} = {value!r}: {message[0].lower()}{message[1:]}"
