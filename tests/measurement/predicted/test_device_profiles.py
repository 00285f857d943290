"""Profiles: those that are there are right, and a wrong one is explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasopt.measurement.predicted.device_profiles import (
    DeviceProfile,
    ProfileError,
    find_profile,
    profiles,
    read_profile,
)
from nasopt.measurement.predicted.fitted import fitted, parse_fitted


def test_profiles_are_there_with_a_source() -> None:
    wanted = {"a100-40gb", "a100-80gb", "a30", "v100-16gb", "v100-32gb", "t4", "l4", "h100", "h200"}
    assert set(profiles()) == wanted
    assert all(profile.name == name and profile.source for name, profile in profiles().items())


@pytest.mark.parametrize("name", sorted(profiles()))
def test_peak_rates_are_those_of_the_units_at_the_clock(name: str) -> None:
    """A whole power of two of fp16 operations for each multiprocessor and clock, within 10 %."""
    profile = profiles()[name]
    each = profile.peak_tflops["fp16"] * 1e3 / profile.multiprocessors / profile.boost_clock_ghz
    nearest = min((2**power for power in range(8, 14)), key=lambda value: abs(value - each))
    assert each == pytest.approx(nearest, rel=0.1)


@pytest.mark.parametrize("name", ["a100", "A100", "A100-40GB", "a100-40gb"])
def test_a100_means_the_one_with_40_gb(name: str) -> None:
    assert find_profile(name).name == "a100-40gb"


def test_an_unknown_profile_is_told_which_there_are() -> None:
    with pytest.raises(ProfileError, match=r"'b200'.*a100-40gb, a100-80gb, a30"):
        find_profile("b200")


def document(**changes: Any) -> dict[str, Any]:
    return profiles()["a30"].model_dump(mode="json") | {"name": "mine"} | changes


def test_a_file_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document(multiprocessors=60)))
    profile = find_profile(str(path))
    assert (profile.name, profile.multiprocessors) == ("mine", 60)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"multiprocessors": 0}, ["multiprocessors = 0"]),
        ({"bandwidth_gbs": -5}, ["bandwidth_gbs = -5"]),
        ({"peak_tflops": {"fp16": 0}}, ["peak_tflops.fp16 = 0"]),
        ({"peak_tflops": {}}, ["peak_tflops"]),
        ({"peak_tflops": {"fp7": 3}}, ["peak_tflops.fp7"]),
        ({"power_w": "much"}, ["power_w = 'much'"]),
        ({"colour": "green"}, ["colour is not a field"]),
        ({"multiprocessors": -1, "l2_mb": 0}, ["multiprocessors = -1", "l2_mb = 0"]),
    ],
)
def test_impossible_values_are_told(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document(**changes)))
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("field", [name for name, item in DeviceProfile.model_fields.items() if item.is_required()])
def test_missing_fields_are_told(tmp_path: Path, field: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({name: value for name, value in document().items() if name != field}))
    with pytest.raises(ProfileError, match=f"{field} is missing"):
        read_profile(path)


@pytest.mark.parametrize(("text", "part"), [("{", "not valid JSON"), ("[]", "the document"), (None, "cannot be read")])
def test_unreadable_files_are_told(tmp_path: Path, text: str | None, part: str) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ProfileError, match=part):
        read_profile(path)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("bandwidth", 1.5, "efficiency bandwidth = 1.5"),
        ("start_us:triton-2021", 0, "start_us"),
        ("attention", -1, "attention"),
    ],
)
def test_impossible_constants_are_told(name: str, value: float, part: str) -> None:
    text = fitted().model_dump(mode="json")
    text["constants"][name] = value
    with pytest.raises(ProfileError, match=part):
        parse_fitted(json.dumps(text), "published.json")
