"""`nasopt study pareto --where --prefer` and `nasopt study export --knee`, on a stored study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run, succeed
from stored_studies import restore

from nasopt.export.trial import choose_knee
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import open_study


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return restore(tmp_path_factory.mktemp("stored"))


def front(database: str, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        succeed("study", "pareto", "genetic", *options, "-f", "json", "--storage", database).out
    )
    return found


def test_the_preferred_value_comes_first(database: str) -> None:
    everything = front(database)
    for name, objective in (("latency", "latency_ms"), ("memory_mb", "memory_mb")):
        found = front(database, "--prefer", name)
        assert [item["values"][objective] for item in found] == sorted(item["values"][objective] for item in everything)
    assert front(database, "--prefer", "quality") == everything


def test_only_what_satisfies_the_condition_is_shown(database: str) -> None:
    everything = front(database)
    best = everything[0]["values"]["quality"]
    found = front(database, "--where", f"quality >= {best}")
    assert found == [item for item in everything if item["values"]["quality"] >= best]
    assert 0 < len(found) < len(everything)


def test_what_is_said_of_the_search_does_not_depend_on_the_choice(database: str) -> None:
    place = ("--storage", database)
    best = front(database)[0]["values"]["quality"]
    chosen = succeed("study", "pareto", "genetic", "--where", f"quality >= {best}", *place).err
    assert chosen == succeed("study", "pareto", "genetic", *place).err
    assert "members" in chosen


def test_mistakes_are_one_line(database: str) -> None:
    cases = {
        "--where 'quality>2': no member of the front satisfies it; loosen it": ("--where", "quality>2"),
        "--where: 'quick' cannot be read": ("--where", "quick"),
        "--prefer: there is no value 'speed'; the study has quality, latency_ms, memory_mb": ("--prefer", "speed"),
    }
    for words, options in cases.items():
        result = run("study", "pareto", "genetic", *options, "--storage", database)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert words in result.err


def test_one_member_is_marked_as_the_knee_and_exported_as_such(database: str, tmp_path: Path) -> None:
    (knee,) = [item["number"] for item in front(database) if item["knee"]]
    opened = open_study(parse_url(database), "genetic", read_only=True)
    assert choose_knee(opened).number == knee
    table = succeed("study", "pareto", "genetic", "--storage", database).out
    assert [line for line in table.splitlines() if line.split()[:1] == [str(knee)] and " knee" in line]
    result = run("study", "export", "genetic", "--knee", "--trial", 1, "--to", tmp_path / "x", "--storage", database)
    assert result.code == 2
    assert "name the model by --trial N, by --best CONDITION or by --knee, one of them" in result.err
