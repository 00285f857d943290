"""The artifact folder of a study that runs trials: found, made for a new one, adopted, never taken from another."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest
from invented_studies import configuration, invent_older_study, invent_study

from nasopt.errors import ArtifactFolderError
from nasopt.records.claim import CLAIM
from nasopt.storage.ownership import Standing, StudyPlace, place_of
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.trial.folder import adopt, folder_of

CONFIG = configuration("tiny")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/nasopt.db"


def load(url: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(parse_url(url)))


def place(study: optuna.Study, artifacts: Path | None = None) -> StudyPlace:
    found = place_of(study, artifacts)
    assert found is not None
    return found


def test_two_studies_of_one_objective_have_two_folders(url: str, tmp_path: Path) -> None:
    names = ["first", "second", None, None]
    studies = [optuna.create_study(study_name=name, storage=url) for name in names]
    folders = [folder_of(study, CONFIG, None) for study in studies]
    root = tmp_path / "nasopt.db.artifacts"
    assert folders[:3] == [root / "first", root / "second", root / "tiny"]
    assert folders[3].name.startswith("tiny-")
    assert [folder_of(study, CONFIG, None) for study in studies] == folders  # asked again, it is the same
    assert folder_of(load(url, "first"), CONFIG, None) == folders[0]
    assert not list(root.glob(".*"))


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", " ", "\x00", "x" * 300])
def test_any_name_of_a_study_gives_a_folder_inside(tmp_path: Path, name: str) -> None:
    study = optuna.create_study(study_name=name)
    folder = folder_of(study, CONFIG, tmp_path / "artifacts")
    assert folder.parent == tmp_path / "artifacts"
    assert folder.is_dir()


def test_a_study_of_an_earlier_version_keeps_its_folder(url: str, tmp_path: Path) -> None:
    """That version stored nothing of it with studies that Python made."""
    study = optuna.create_study(study_name="mine", storage=url)
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"base": True}))
    with pytest.raises(ArtifactFolderError, match="is not there"):
        folder_of(study, CONFIG, None)
    folder = tmp_path / "nasopt.db.artifacts" / "tiny"
    folder.mkdir(parents=True)
    (folder / "base.json").write_text("{}")
    assert folder_of(study, CONFIG, None) == folder
    other = optuna.create_study(study_name="other", storage=url)
    other.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"base": True}))
    with pytest.raises(ArtifactFolderError, match="belongs to the study 'mine'"):
        folder_of(other, CONFIG, None)


def test_a_folder_that_vanishes_is_not_made_again(url: str) -> None:
    study = invent_study(url, "tiny")
    folder = folder_of(study, CONFIG, None)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactFolderError, match="is not there"):
        folder_of(study, CONFIG, None)
    assert not folder.exists()


def test_a_copy_is_refused_and_gets_files_of_its_own(url: str, tmp_path: Path) -> None:
    original = invent_study(url, "tiny")
    optuna.copy_study(from_study_name="tiny", from_storage=url, to_storage=url, to_study_name="backup")
    copy = load(url, "backup")
    with pytest.raises(ArtifactFolderError, match=r"belongs to the study 'tiny' .*of which this one is a copy"):
        folder_of(copy, CONFIG, None)
    with pytest.raises(ArtifactFolderError, match="belongs to the study 'tiny'"):
        folder_of(copy, CONFIG, None, adopt_it=True)  # there is nothing to adopt while the original is there
    folder = folder_of(copy, CONFIG, tmp_path / "own", adopt_it=True)
    assert (folder / "checkpoints" / "weights").read_text() == "tiny"
    assert folder_of(copy, CONFIG, None) == folder  # it names it from now on
    assert place(original).standing() is Standing.OWN
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny"]


def test_a_copy_made_by_hand_is_adopted(url: str, tmp_path: Path) -> None:
    original = invent_study(url, "tiny")
    optuna.copy_study(from_study_name="tiny", from_storage=url, to_storage=url, to_study_name="backup")
    shutil.copytree(place(original).artifacts, tmp_path / "deep" / "er" / "by-hand")
    copy = place(load(url, "backup"), tmp_path / "deep" / "er" / "by-hand")
    assert copy.standing() is Standing.FOREIGN
    adopt(copy)
    assert copy.standing() is Standing.OWN
    assert place(original).standing() is Standing.OWN


def test_a_database_that_was_moved_alone_adopts_its_files(url: str, tmp_path: Path) -> None:
    study = invent_study(url, "tiny")
    artifacts = place(study).artifacts
    (tmp_path / "new").mkdir()
    for file in tmp_path.glob("nasopt.db*"):
        if file.is_file():
            file.rename(tmp_path / "new" / file.name)
    moved = load(f"sqlite:///{tmp_path}/new/nasopt.db", "tiny")
    there = place(moved, artifacts)
    assert there.standing() is Standing.FOREIGN
    assert "--adopt" in there.explain()
    adopt(there)
    assert place(moved).standing() is Standing.OWN
    assert place(moved).artifacts == artifacts


def test_the_files_of_a_copied_database_are_not_taken(url: str, tmp_path: Path) -> None:
    original = invent_study(url, "tiny")
    other = f"sqlite:///{tmp_path}/other.db"
    optuna.copy_study(from_study_name="tiny", from_storage=url, to_storage=other)
    there = place(load(other, "tiny"), place(original).artifacts)
    with pytest.raises(ArtifactFolderError, match=r"belongs to the study 'tiny' of .*nasopt\.db"):
        adopt(there)
    assert place(original).standing() is Standing.OWN


def test_there_is_nothing_to_adopt_where_nothing_is(url: str, tmp_path: Path) -> None:
    study = invent_study(url, "tiny")
    shutil.rmtree(place(study).folder)
    with pytest.raises(ArtifactFolderError, match="no artifact folder to adopt"):
        adopt(place(study, tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_which_of_two_older_studies_has_the_folder_is_for_the_user_to_say(url: str, tmp_path: Path) -> None:
    root = tmp_path / "nasopt.db.artifacts"
    invent_older_study(url, "tiny", root)
    invent_older_study(url, "backup", root, folder="tiny")
    adopt(place(load(url, "tiny")))
    assert place(load(url, "tiny")).standing() is Standing.OWN
    with pytest.raises(ArtifactFolderError, match="belongs to the study 'tiny'"):
        adopt(place(load(url, "backup")))


def test_a_claim_that_was_lost_is_adopted(url: str) -> None:
    study = invent_study(url, "tiny")
    (place(study).folder / CLAIM).unlink()
    with pytest.raises(ArtifactFolderError, match="does not say whose it is"):
        folder_of(study, CONFIG, None)
    adopt(place(study))
    assert place(study).standing() is Standing.OWN
