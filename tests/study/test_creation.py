"""`create` stores a study as a whole, or leaves nothing that stands in the way."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from command_line import run
from conftest import write_pairs
from processes import NASOPT, run_code, start_code
from study_text import study_text

from nasopt.models.sentence_modules import SentenceModules, sentence_files
from nasopt.records.claim import CLAIM
from nasopt.records.study import StudyRecord
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.study import creation

pytestmark = pytest.mark.integration
WriteStudy = Callable[..., Path]
URL = "sqlite:///nasopt.db"

KILLED = """
import os, signal, sys
import optuna
from nasopt.records.study import StudyRecord
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.storage import ownership
from nasopt.study import creation

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{patch}
from nasopt.cli.app import main
main()
"""
MOMENTS = {
    "before it says who makes it": "creation._store = die",
    "before it has a folder": "creation.new_place = die",
    "before the folder says whose it is": "ownership.StudyPlace._write = die",
    "before it has a configuration": "creation.places = die",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)


def names() -> list[str]:
    return [study["name"] for study in json.loads(run("study", "list", "-f", "json").out)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_create_that_is_killed_leaves_a_name_that_is_free(
    moment: str, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study()
    killed = run_code(KILLED.format(patch=MOMENTS[moment]), "study", "create", path)
    assert killed.returncode == -signal.SIGKILL
    assert optuna.get_all_study_names(URL) == ["tiny"]
    assert names() == []
    shown = run("study", "show", "tiny")
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    monkeypatch.setattr(creation, "CREATION_SECONDS", 0.2)
    again = run("study", "create", path)
    assert again.code == 0, again.err
    assert names() == ["tiny"]
    assert (Path("nasopt.db.artifacts") / "tiny" / CLAIM).is_file()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_study_that_is_half_made_is_deleted(moment: str, write_study: WriteStudy) -> None:
    run_code(KILLED.format(patch=MOMENTS[moment]), "study", "create", write_study())
    result = run("study", "delete", "tiny", "--yes")
    assert result.code == 0, result.err
    assert optuna.get_all_study_names(URL) == []


def test_a_create_that_fails_leaves_nothing(write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(creation, "places", full)
    assert run("study", "create", write_study()).code != 0
    assert optuna.get_all_study_names(URL) == []
    assert not list(Path("nasopt.db.artifacts").iterdir())


def test_a_study_of_somebody_else_is_not_taken_for_half_made(write_study: WriteStudy) -> None:
    optuna.create_study(study_name="tiny", storage=URL).add_trial(optuna.trial.create_trial(value=1.0))
    result = run("study", "create", write_study())
    assert (result.code, "exists already" in result.err) == (2, True)
    assert len(optuna.load_study(study_name="tiny", storage=URL).trials) == 1


def test_several_creates_at_once_on_a_new_database(write_study: WriteStudy) -> None:
    path = write_study()
    processes = [start_code(NASOPT, "study", "create", path, "--name", name) for name in ("a", "b", "b")]
    ended = [process.wait() for process in processes]
    said = [done.stderr for done in ended]
    assert sorted(done.returncode for done in ended) == [0, 0, 2], said
    assert all(text.splitlines()[-1].startswith(("study ", "nasopt: ")) and "Traceback" not in text for text in said), (
        said
    )
    assert names() == ["a", "b"]
    assert sorted(path.name for path in Path("nasopt.db.artifacts").iterdir()) == ["a", "b"]
    assert not list(Path().glob(".nasopt.db*"))


def test_two_users_create_one_study_on_a_server(
    write_study: WriteStudy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASOPT_STORAGE", postgres_url)
    path = write_study()
    processes = [start_code(NASOPT, "study", "create", path) for _ in range(2)]
    ended = [process.wait() for process in processes]
    assert sorted(done.returncode for done in ended) == [0, 2], [done.stderr for done in ended]
    (refused,) = [done.stderr for done in ended if done.returncode == 2]
    lines = [line for line in refused.splitlines() if line.startswith("nasopt: ")]
    assert len(lines) == 1, refused
    assert "'tiny'" in lines[0]
    assert "Traceback" not in refused
    (summary,) = optuna.get_all_study_summaries(open_storage(parse_url(postgres_url)))
    assert summary.study_name == "tiny"
    assert run("study", "show", "tiny").code == 0


def test_what_lies_in_the_default_folder_stays(write_study: WriteStudy) -> None:
    """A database was deleted, or is another one with the same folder: what is there may be needed."""
    path = write_study()
    assert run("study", "create", path).code == 0
    Path("nasopt.db").unlink()
    result = run("study", "create", path)
    assert result.code == 0, result.err
    assert "is in use: the study's files go to" in result.err
    first, second = sorted(Path("nasopt.db.artifacts").iterdir())
    assert (first.name, second.name[:5]) == ("tiny", "tiny-")
    study = optuna.load_study(study_name="tiny", storage=URL)
    assert StudyRecord.of(study).folder == second.name


def test_what_a_model_s_files_settled_is_the_same_study(study_folder: Path, tiny_bert: Path) -> None:
    """`--skip-if-exists` compares a file that leaves pooling, prefix and length open with a study that has them."""
    shutil.copytree(tiny_bert, study_folder / "model")
    modules = SentenceModules("cls", normalize=False, max_length=24, prompts={"query": "it "}, prompt="it ")
    for path, text in sentence_files(modules, 64).items():
        (study_folder / "model" / path).parent.mkdir(exist_ok=True)
        (study_folder / "model" / path).write_text(text)
    write_pairs(study_folder / "pairs", {"train": 8, "validation": 8, "test": 8}, {"good": "the", "bad": "film"})
    task = 'type = "sentence-similarity"\nmetric = "retrieval"'
    file = study_folder / "tiny.toml"
    columns = 'text = ["first", "second"]'
    file.write_text(study_text("model", "pairs", "", method="fisher", task=task, columns=columns))
    created = run("study", "create", file)
    assert created.code == 0, created.err
    assert "as the model's own files say, pooling is cls, the prefix is 'it '" in created.out + created.err
    task_of = StudyRecord.of(optuna.load_study(study_name="tiny", storage=URL)).configuration["task"]  # type: ignore[index]
    found = task_of["similarity"]
    assert (found["pooling"], found["prefix"], found["normalize"], task_of["max_length"]) == ("cls", "it ", False, 24)
    assert run("study", "create", file, "--skip-if-exists").code == 0
    file.write_text(file.read_text().replace(task, f"{task}\nmax_length = 20"))
    differs = run("study", "create", file, "--skip-if-exists")
    assert differs.code != 0
    assert "its configuration differs" in differs.err
