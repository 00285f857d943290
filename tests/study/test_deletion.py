"""Deleting one study never costs another one its files."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from command_line import run
from invented_studies import invent_older_study, invent_study

from nasopt.host.identity import worker_identity
from nasopt.records.trial import TrialRecord


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of a study named `old`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)
    url = f"sqlite:///{tmp_path}/nasopt.db"
    invent_study(url, "old")
    return url


WEIGHTS = Path("nasopt.db.artifacts/old/checkpoints/weights")


def copy(url: str, name: str = "backup", to: str | None = None) -> None:
    optuna.copy_study(from_study_name="old", from_storage=url, to_storage=to or url, to_study_name=name)


def names(url: str) -> list[str]:
    return sorted(optuna.get_all_study_names(url))


def delete(name: str, *options: object) -> str:
    result = run("study", "delete", name, "--yes", *options)
    assert result.code == 0, result.err
    return result.err


def test_a_study_goes_with_its_files(url: str) -> None:
    assert delete("old") == "study 'old' deleted\n"
    assert names(url) == []
    assert not list(Path("nasopt.db.artifacts").iterdir())


def test_the_copy_goes_and_the_original_stays(url: str) -> None:
    copy(url)
    assert "shares it" in delete("backup")
    assert names(url) == ["old"]
    assert WEIGHTS.is_file()
    delete("old")
    assert not WEIGHTS.exists()


def test_the_original_goes_and_its_copy_has_the_files(url: str) -> None:
    copy(url)
    assert "'backup' shares it" in delete("old")
    assert names(url) == ["backup"]
    assert WEIGHTS.is_file()
    delete("backup")
    assert not WEIGHTS.exists()


def test_a_copy_in_another_database_goes_alone(url: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    copy(url, "old", other)
    assert "its files stay" in delete("old", "--storage", other, "--artifacts", "nasopt.db.artifacts")
    assert WEIGHTS.is_file()
    assert (names(url), names(other)) == (["old"], [])


def test_a_study_that_was_renamed_goes_with_its_files_alone(url: str) -> None:
    copy(url, "kept")
    optuna.delete_study(study_name="old", storage=url)  # as the dashboard renames
    invent_study(url, "old")
    delete("kept")
    assert names(url) == ["old"]
    assert not WEIGHTS.exists()
    (folder,) = Path("nasopt.db.artifacts").iterdir()
    assert (folder / "checkpoints" / "weights").read_text() == "old"


def test_older_studies_that_share_a_folder_leave_it(url: str, tmp_path: Path) -> None:
    root = tmp_path / "nasopt.db.artifacts"
    invent_older_study(url, "first", root)
    invent_older_study(url, "copied", root, folder="first")
    assert "is used by 'first', too" in delete("copied")
    assert (root / "first" / "checkpoints").is_dir()
    delete("first")  # nobody else uses it any more
    assert not (root / "first").exists()


def test_the_files_that_a_copy_names_are_not_removed_one_by_one(url: str, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="old", storage=url)
    folder = tmp_path / "nasopt.db.artifacts" / ".uploads"
    folder.mkdir()
    upload = folder / "11111111-1111-1111-1111-111111111111"
    upload.write_text("")
    meta = {"artifact_id": upload.name, "filename": "a", "mimetype": "text/plain", "encoding": None}
    study._storage.set_study_system_attr(study._study_id, f"artifacts:{upload.name}", json.dumps(meta))
    copy(url)
    delete("backup")
    assert upload.is_file()
    delete("old")
    assert not upload.exists()


def test_a_study_whose_configuration_cannot_be_read_is_deleted(url: str) -> None:
    study = optuna.load_study(study_name="old", storage=url)
    study.set_user_attr("nasopt:config", {**study.user_attrs["nasopt:config"], "method": ["x"]})
    result = run("study", "show", "old")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "a stored configuration that cannot be read" in result.err
    delete("old")
    assert names(url) == []
    assert not WEIGHTS.exists()


def test_a_name_that_leads_elsewhere_deletes_nothing(url: str, tmp_path: Path) -> None:
    precious = tmp_path / "victim" / "precious"
    precious.mkdir(parents=True)
    study = optuna.load_study(study_name="old", storage=url)
    study.set_user_attr("nasopt:folder", "../victim/precious")
    assert "its files stay" in delete("old")
    assert precious.is_dir()


@pytest.mark.parametrize("kept", ["id", "no id"])
def test_a_folder_that_only_the_database_names_is_not_deleted(url: str, tmp_path: Path, kept: str) -> None:
    """It holds what a study's folder holds, but does not say that it is this study's."""
    precious = tmp_path / "victim" / "project"
    (precious / "checkpoints").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "nasopt.db")) as connection:
        for key, value in {"artifacts": str(precious.parent), "folder": precious.name}.items():
            change = "UPDATE study_user_attributes SET value_json = ? WHERE key = ?"
            assert connection.execute(change, [json.dumps(value), f"nasopt:{key}"]).rowcount == 1
        if kept == "no id":
            connection.execute("DELETE FROM study_user_attributes WHERE key = 'nasopt:id'")
        connection.commit()
    assert "its files stay" in delete("old")
    assert (precious / "checkpoints").is_dir()


def test_a_study_that_is_being_run_stays(url: str) -> None:
    study = optuna.load_study(study_name="old", storage=url)
    TrialRecord(worker={**worker_identity(), "host": "elsewhere"}).write_to(study.ask())
    result = run("study", "delete", "old", "--yes")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "is being run: process " in result.err
    assert WEIGHTS.is_file()


def test_a_study_of_somebody_else_stays(url: str) -> None:
    optuna.create_study(study_name="theirs", storage=url).add_trial(optuna.trial.create_trial(value=1.0))
    result = run("study", "delete", "theirs", "--yes")
    assert result.code == 2
    assert "was not made by nasopt" in result.err
    assert names(url) == ["old", "theirs"]


def test_without_a_standard_input_it_asks_for_yes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of a standard input that the shell has closed
    result = run("study", "delete", "old")
    assert result.code == 2
    assert "pass --yes" in result.err
