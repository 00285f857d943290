"""A study and its artifact folder name each other; nobody else takes the folder for its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from invented_studies import invent_older_study, invent_study

from nasopt.errors import ArtifactFolderError
from nasopt.records.claim import CLAIM, Claim
from nasopt.storage.ownership import Standing, StudyPlace, new_place, place_of, read_claim
from nasopt.storage.rdb import open_storage, parse_url

if TYPE_CHECKING:
    from postgres import Server


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder}/nasopt.db"


def load(folder: Path, name: str) -> StudyPlace:
    """The place of a study of the database in that folder."""
    storage = open_storage(parse_url(url_in(folder)))
    place = place_of(optuna.load_study(study_name=name, storage=storage))
    assert place is not None
    return place


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a database of one study, named `old`, and its files."""
    folder = tmp_path / "home"
    folder.mkdir()
    invent_study(url_in(folder), "old")
    return folder


def copy_study(folder: Path, to: Path, name: str) -> StudyPlace:
    optuna.copy_study(from_study_name="old", from_storage=url_in(folder), to_storage=url_in(to), to_study_name=name)
    return load(to, name)


def test_a_new_study_owns_its_folder(home: Path) -> None:
    place = load(home, "old")
    assert place.folder == home / "nasopt.db.artifacts" / "old"
    assert place.standing() is Standing.OWN
    claim = read_claim(place.folder)
    assert claim is not None
    assert claim.database == str(home / "nasopt.db")
    assert Claim.from_json(claim.to_json()) == claim


def test_a_copy_in_the_same_database_does_not(home: Path) -> None:
    copy = copy_study(home, home, "backup")
    assert copy.folder == home / "nasopt.db.artifacts" / "old"
    assert copy.standing() is Standing.FOREIGN
    line = copy.explain()
    for part in ("'old'", "of which this one is a copy", "--artifacts OTHER --adopt"):
        assert part in line
    assert load(home, "old").standing() is Standing.OWN


def test_a_copy_in_another_database_does_not(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    copy = copy_study(home, other, "old")
    assert copy.standing() is Standing.ABSENT  # beside its own database, there is nothing
    there = StudyPlace(copy.study, home / "nasopt.db.artifacts", "old")
    assert there.standing() is Standing.FOREIGN
    assert str(home / "nasopt.db") in there.explain()


def test_a_copy_of_the_database_alone_does_not(home: Path) -> None:
    for file in home.glob("nasopt.db*"):
        if file.is_file():  # the log of what has been written lately, too
            shutil.copy(file, home / file.name.replace("nasopt", "second"))
    study = optuna.load_study(study_name="old", storage=open_storage(parse_url(f"sqlite:///{home}/second.db")))
    place = place_of(study)
    assert place is not None
    assert place.standing() is Standing.FOREIGN
    assert place.used_by_a_living_study()


def test_a_whole_folder_that_is_copied_or_moved_belongs_together(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "copy")
    for folder in (home, tmp_path / "copy"):
        place = load(folder, "old")
        assert place.folder.is_relative_to(folder)
        assert place.standing() is Standing.OWN
    home.rename(tmp_path / "moved")
    assert load(tmp_path / "moved", "old").standing() is Standing.OWN


def test_files_that_were_moved_away_are_still_the_studys(home: Path, tmp_path: Path) -> None:
    (home / "nasopt.db.artifacts").rename(tmp_path / "files")
    place = load(home, "old")
    assert place.standing() is Standing.ABSENT
    assert StudyPlace(place.study, tmp_path / "files", "old").standing() is Standing.OWN


def test_a_renamed_study_keeps_its_folder(home: Path) -> None:
    """The dashboard renames by copying the study and deleting the first one."""
    renamed = copy_study(home, home, "new")
    optuna.delete_study(study_name="old", storage=url_in(home))
    assert renamed.standing() is Standing.INHERITED
    renamed.settle()
    assert renamed.standing() is Standing.OWN
    assert renamed.folder.name == "old"
    again = invent_study(url_in(home), "old")  # the name is free again, the folder is not
    place = place_of(again)
    assert place is not None
    assert place.folder.name.startswith("old-")
    assert (renamed.standing(), place.standing()) == (Standing.OWN, Standing.OWN)


def test_of_two_copies_none_inherits(home: Path) -> None:
    copies = [copy_study(home, home, name) for name in ("first", "second")]
    optuna.delete_study(study_name="old", storage=url_in(home))
    assert [copy.standing() for copy in copies] == [Standing.FOREIGN] * 2


def test_a_number_that_is_used_again_is_no_identity(home: Path) -> None:
    kept = load(home, "old").folder
    optuna.delete_study(study_name="old", storage=url_in(home))
    place = place_of(invent_study(url_in(home), "old"))
    assert place is not None
    assert place.folder != kept
    assert StudyPlace(place.study, place.artifacts, "old").standing() is Standing.FOREIGN


def test_a_folder_that_came_back_empty_is_nobodys(home: Path) -> None:
    place = load(home, "old")
    shutil.rmtree(place.folder)
    assert place.standing() is Standing.ABSENT
    place.folder.mkdir()
    assert place.standing() is Standing.UNNAMED
    assert "--adopt" in place.explain()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1}'])
def test_a_damaged_claim_is_one_line(home: Path, text: str) -> None:
    place = load(home, "old")
    (place.folder / CLAIM).write_text(text)
    with pytest.raises(ArtifactFolderError, match=r"study\.json: .*--adopt"):
        place.standing()


@pytest.mark.parametrize("name", ["../victim", "..", ".hidden", "a/b", ""])
def test_a_stored_name_leads_nowhere_else(home: Path, name: str) -> None:
    with pytest.raises(ArtifactFolderError, match="is not that of a folder"):
        StudyPlace(load(home, "old").study, home, name).standing()


def test_a_study_without_an_id_gets_one_where_nobody_else_uses_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "nasopt.db.artifacts"
    invent_older_study(url_in(tmp_path), "alone", root)
    place = load(tmp_path, "alone")
    before = json.dumps(place.study.user_attrs)
    assert place.standing() is Standing.OLDER
    assert json.dumps(place.study.user_attrs) == before  # asking changes nothing
    place.settle()
    assert place.standing() is Standing.OWN
    assert place.study.user_attrs["nasopt:artifacts"] == "nasopt.db.artifacts"
    assert not list(root.glob(".*"))


def test_older_studies_that_share_a_folder_get_none(tmp_path: Path) -> None:
    root = tmp_path / "nasopt.db.artifacts"
    invent_older_study(url_in(tmp_path), "old", root)
    invent_older_study(url_in(tmp_path), "backup", root, folder="old")
    for name, other in (("old", "backup"), ("backup", "old")):
        place = load(tmp_path, name)
        assert place.standing() is Standing.FOREIGN
        assert f"is used by '{other}', too" in place.explain()
        place.settle()
        assert read_claim(place.folder) is None


def test_an_older_copy_of_a_whole_folder_does_not_take_the_originals(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    invent_older_study(url_in(first), "old", first / "nasopt.db.artifacts")
    shutil.copytree(first, tmp_path / "copy")
    place = load(tmp_path / "copy", "old")  # its database names the first one's folder
    assert place.folder.is_relative_to(first)
    assert place.standing() is Standing.FOREIGN
    assert str(first / "nasopt.db") in place.explain()
    own = place_of(place.study, tmp_path / "copy" / "nasopt.db.artifacts")
    assert own is not None
    assert own.standing() is Standing.OLDER
    assert load(first, "old").standing() is Standing.OLDER


def test_a_study_in_no_database_has_a_folder_of_its_own(tmp_path: Path) -> None:
    places = [new_place(optuna.create_study(), tmp_path, "tiny") for _ in range(2)]
    assert places[0].folder != places[1].folder
    assert [place.standing() for place in places] == [Standing.OWN] * 2


@pytest.mark.integration
def test_two_databases_of_one_server_share_no_folder(
    postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their default folder is in the current one, whatever the database."""
    monkeypatch.chdir(tmp_path)
    urls = [postgres_server.new_database() for _ in range(2)]
    places = [place_of(invent_study(url, "tiny")) for url in urls]
    first, second = (place for place in places if place is not None)
    assert first.folder == tmp_path / "nasopt-artifacts" / "tiny"
    assert second.folder.name.startswith("tiny-")
    assert (first.standing(), second.standing()) == (Standing.OWN, Standing.OWN)
    copied = postgres_server.new_database(template=urls[0])
    study = optuna.load_study(study_name="tiny", storage=open_storage(parse_url(copied)))
    copy = place_of(study)
    assert copy is not None
    assert copy.standing() is Standing.FOREIGN
    assert "belongs to the study 'tiny' of postgresql" in copy.explain()
    again = urls[0].replace("127.0.0.1", "localhost")  # another name of the server is the same database
    study = optuna.load_study(study_name="tiny", storage=open_storage(parse_url(again)))
    assert StudyPlace(study, first.artifacts, "tiny").standing() is Standing.OWN
