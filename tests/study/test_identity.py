"""Copies, renamed and moved studies, from the command line: the owner of files, and the words of each command."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from command_line import Result, run
from processes import NASOPT, Started, start_code
from stored_studies import ARTIFACTS, DATABASE, as_before, expected, restore
from study_text import study_text

from nasopt.records.claim import CLAIM
from nasopt.records.study import StudyRecord

pytestmark = pytest.mark.integration
OPTIONS = """
population_size = 2
generations = 1
start = "base"
mutations = ["remove_any_layer", "remove_any_heads", "remove_ffn"]
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Path:
    """Folder of a study named `old` that has run to its end."""
    folder = tmp_path_factory.mktemp("searched") / "study"
    folder.mkdir()
    text = study_text(tiny_bert, sentiment, OPTIONS, base_epochs=1).replace('"tiny"', '"old"')
    (folder / "old.toml").write_text(text)
    place = ("--storage", f"sqlite:///{folder}/{DATABASE}")
    for command in (("create", folder / "old.toml"), ("optimize", "old")):
        result = run("study", *command, *place)
        assert result.code == 0, result.err
    return folder


@pytest.fixture
def here(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, the current one."""
    folder = tmp_path / "study"
    shutil.copytree(searched, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)
    return folder


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/{DATABASE}"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name[0] != "."}


def refused(result: Result, *parts: str) -> None:
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err, result.err


def study(*arguments: object) -> Result:
    return run("study", *arguments)


def test_a_folder_that_is_copied_as_a_whole_is_another_study(here: Path, searched: Path) -> None:
    before = files(searched / ARTIFACTS)
    result = study("optimize", "old", "--n-trials", 1)
    assert result.code == 0, result.err
    shown = json.loads(study("show", "old", "-f", "json").out)
    assert shown["artifacts"] == str(here / ARTIFACTS / "old")
    assert files(searched / ARTIFACTS) == before
    shutil.rmtree(here / ARTIFACTS)
    assert files(searched / ARTIFACTS) == before


def test_a_copied_study_is_recognised_and_gets_a_folder_of_its_own(here: Path, tmp_path: Path) -> None:
    optuna.copy_study(from_study_name="old", from_storage=url_of(here), to_storage=url_of(here), to_study_name="backup")
    before = files(here / ARTIFACTS)
    for command in (
        ("optimize", "backup", "--n-trials", 1),
        ("controls", "backup"),
        ("export", "backup", "--trial", 0, "--to", tmp_path / "out"),
        ("optimize", "backup", "--adopt"),
        ("optimize", "backup", "--rebuild"),
    ):
        result = study(*command)
        assert result.code == 2, (command, result.err)
        assert "belongs to the study 'old' of " in result.err
    shown = study("show", "backup", "-f", "json")
    assert (shown.code, json.loads(shown.out)["name"]) == (0, "backup")
    assert "of which this one is a copy" in shown.err
    assert study("list").code == 0
    assert files(here / ARTIFACTS) == before
    adopted = study("optimize", "backup", "--n-trials", 1, "--adopt", "--artifacts", here / "own")
    assert adopted.code == 0, adopted.err
    assert len(json.loads(study("trials", "backup", "-f", "json").out)) == 4
    assert len(json.loads(study("trials", "old", "-f", "json").out)) == 3
    assert files(here / ARTIFACTS) == before
    assert study("export", "backup", "--trial", 0, "--to", tmp_path / "out").code == 0
    assert study("delete", "backup", "--yes").code == 0
    assert files(here / ARTIFACTS) == before


@pytest.mark.usefixtures("workers_that_start_at_once")
def test_commands_act_on_the_study_that_they_opened(here: Path) -> None:
    """It is so, too, where workers open the study anew, by the name it has now."""
    optuna.copy_study(from_study_name="old", from_storage=url_of(here), to_storage=url_of(here), to_study_name="copy")
    command = ("optimize", "copy", "--n-trials", 2, "--workers", 2, "--adopt", "--artifacts", here / "own")
    result = study(*command)
    assert result.code == 0, result.err
    trials = {name: len(optuna.load_study(study_name=name, storage=url_of(here)).trials) for name in ("old", "copy")}
    assert trials == {"old": 3, "copy": 5}


def test_a_folder_that_was_moved_away_is_not_made_again(here: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    assert study("optimize", "old").code == 0  # nothing is left to do; the copied files know now where they belong
    (here / ARTIFACTS).rename(away)
    for command in (
        ("export", "old", "--trial", 0, "--to", tmp_path / "out"),
        ("optimize", "old"),
        ("controls", "old"),
    ):
        refused(study(*command), "is not there; bring it back, ", "--artifacts")
        assert not (here / ARTIFACTS).exists()
    assert study("optimize", "old", "--n-trials", 1, "--artifacts", away).code == 0
    assert not (here / ARTIFACTS).exists()


def test_a_folder_that_goes_while_trials_run_is_not_made_again(here: Path, tmp_path: Path) -> None:
    started = start_code(NASOPT, "study", "optimize", "old", "--n-trials", 200)
    opened = optuna.load_study(study_name="old", storage=url_of(here))
    _wait(lambda: len(opened.get_trials(deepcopy=False)) > 4, started)
    (here / ARTIFACTS).rename(tmp_path / "away")
    ended = started.wait(120)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "bring it back" in ended.stderr
    assert not (here / ARTIFACTS / "old" / CLAIM).exists()
    assert not (here / ARTIFACTS / "old" / "base.json").exists()
    assert (tmp_path / "away" / "old" / CLAIM).is_file()


def test_a_study_that_is_deleted_while_it_runs_ends_the_run_in_a_line(here: Path) -> None:
    started = start_code(NASOPT, "study", "optimize", "old", "--n-trials", 200)
    opened = optuna.load_study(study_name="old", storage=url_of(here))
    _wait(lambda: len(opened.get_trials(deepcopy=False)) > 4, started)
    optuna.delete_study(study_name="old", storage=url_of(here))  # as the dashboard does
    ended = started.wait(120)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == "nasopt: the study 'old' was deleted while it was being run"
    assert "Traceback" not in ended.stderr


def _wait(condition: Callable[[], bool], started: Started) -> None:
    deadline = time.monotonic() + 200
    while not condition() and time.monotonic() < deadline and started.process.is_alive():
        time.sleep(0.05)


def test_one_study_that_cannot_be_read_does_not_hide_the_others(here: Path) -> None:
    optuna.copy_study(from_study_name="old", from_storage=url_of(here), to_storage=url_of(here), to_study_name="bad")
    bad = optuna.load_study(study_name="bad", storage=url_of(here))
    whole = dict(StudyRecord.of(bad).configuration or {})
    for configuration in ({**whole, "method": "none"}, {**whole, "schema": 99}, {"name": "bad"}, "text", [1]):
        bad.set_user_attr("nasopt:config", configuration)
        result = study("list", "-f", "json")
        assert result.code == 0, result.err
        assert [item["name"] for item in json.loads(result.out)] == ["old"]
        assert result.err.startswith("bad: ")
        assert result.err.count("\n") == 1
        refused(study("show", "bad"))


def test_a_study_of_an_earlier_version_gets_its_id_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = restore(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ARTIFACTS / "genetic"
    shown = study("show", "genetic", "-f", "json")
    assert shown.code == 0, shown.err
    assert as_before(shown.out) == expected(tmp_path)["genetic"]["show"]
    assert not (folder / CLAIM).exists()
    opened = optuna.load_study(study_name="genetic", storage=url)
    assert StudyRecord.of(opened).id is None
    result = study("optimize", "genetic", "--timeout", 0, "--accept-device-change")
    assert result.code == 0, result.err
    record = StudyRecord.of(opened)
    assert json.loads((folder / CLAIM).read_text())["id"] == record.id
    assert (record.artifacts, record.folder) == (ARTIFACTS, "genetic")
