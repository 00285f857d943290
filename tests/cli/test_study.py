"""Commands that only read leave a study as it is, and need no permission to write it; those that write say so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import Result, read, run
from processes import run_code
from readers import read_only
from study_text import study_text

pytestmark = pytest.mark.integration

READING = [
    ("study", "list", "-f", "json"),
    ("study", "show", "tiny", "-f", "json"),
    ("study", "pareto", "tiny"),
    ("study", "trials", "tiny", "-f", "csv"),
    ("device", "predict", "--study", "tiny", "--trial", "0", "--profile", "a100-40gb"),
    ("study", "export", "tiny", "--trial", "0", "--to", "../out"),
]
WRITING = [
    ("study", "create", "tiny.toml", "--name", "other"),
    ("study", "optimize", "tiny", "--n-trials", "1"),
    ("study", "controls", "tiny"),
    ("study", "delete", "tiny", "--yes"),
]
RUN = """
import json, sys
from command_line import run
print(json.dumps([vars(run(*arguments)) for arguments in json.loads(sys.argv[1])]))
"""
PRINT_CONTROLS = """
from rich.console import Console
from nasopt.report.verdicts import print_controls
from nasopt.storage.rdb import parse_url
from nasopt.study import open_study
print_controls(open_study(parse_url("sqlite:///nasopt.db"), "tiny", read_only=True), "csv", Console())
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Path:
    """The folder of a study that has been searched and compared with controls."""
    folder = tmp_path_factory.mktemp("searched") / "study"
    folder.mkdir()
    (folder / "tiny.toml").write_text(
        study_text(tiny_bert, sentiment, 'population_size = 4\ngenerations = 2\nstart = "base"', base_epochs=2)
    )
    commands = (
        ("study", "create", "tiny.toml"),
        ("study", "optimize", "tiny", "--n-trials", "3"),
        ("study", "controls", "tiny", "--random-masks", "1"),
    )
    for command, result in zip(commands, run_all(folder, commands), strict=True):
        assert result.code == 0, (command, result.err)
    assert not list(folder.glob("nasopt.db-*")), "the database is not closed"
    return folder


@pytest.fixture
def here(searched: Path, study_folder: Path) -> Path:
    """A copy of that folder, the current one."""
    shutil.copytree(searched, study_folder, dirs_exist_ok=True)
    return study_folder


def at(folder: Path, arguments: Iterable[str]) -> list[str]:
    """The command for the copy, whose database names the artifact folder of the original."""
    return [*arguments, "--artifacts", str(folder / "nasopt.db.artifacts")]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of last change of everything in a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def refused(result: Result) -> str:
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1, result.err
    return result.err


def as_reader(folder: Path, commands: Iterable[Iterable[str]], unwritable: Path) -> list[Result]:
    """The lines that commands print for a user without leave to write the folder `unwritable`, which stays as it is."""
    before = listing(unwritable)
    with read_only(unwritable):
        found = run_all(folder, [at(folder, command) for command in commands])
        assert listing(unwritable) == before
    return found


def run_all(folder: Path, commands: Iterable[Iterable[str]]) -> list[Result]:
    """Runs commands in a folder, in one process, which permissions bind."""
    done = run_code(RUN, json.dumps([list(command) for command in commands]), cwd=folder, without_overrides=True)
    assert done.returncode == 0, done.stderr
    return [Result(**item) for item in json.loads(done.stdout)]


def test_reading_commands_work_without_permission_to_write(here: Path) -> None:
    for command, result in zip(READING, as_reader(here, READING, here), strict=True):
        assert result.code == 0, (command, result.err)
        assert result.out


def test_controls_are_printed_without_permission_to_write(here: Path) -> None:
    with read_only(here):
        result = run_code(PRINT_CONTROLS, cwd=here, without_overrides=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") > 1


@pytest.mark.parametrize("command", READING, ids=lambda command: command[1])
def test_reading_commands_leave_everything_as_it_is(here: Path, command: tuple[str, ...]) -> None:
    before = listing(here)
    result = run(*at(here, command))
    assert result.code == 0, result.err
    assert listing(here) == before


@pytest.mark.parametrize("command", READING[:4], ids=lambda command: command[1])
def test_looking_imports_no_torch(here: Path, command: tuple[str, ...]) -> None:
    """Torch and transformers take seconds, for which nobody should wait who only looks."""
    code = f"""
import sys
from nasopt.cli import main
sys.argv = ["nasopt", *{at(here, command)!r}]
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert not {{"torch", "transformers", "datasets"}} & sys.modules.keys()
"""
    # A process of its own: those that the tests fork have imported everything.
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_export_tokenises_elsewhere_what_is_not_there(here: Path) -> None:
    data = here / "nasopt.db.artifacts" / "tiny" / "data"
    for path in data.iterdir():
        path.unlink()
    assert run(*at(here, READING[-1])).code == 0
    assert list(data.iterdir()) == []


def test_writing_commands_say_that_the_database_cannot_be_written(here: Path) -> None:
    for result in as_reader(here, WRITING, here):
        assert "nasopt.db: the database cannot be opened: attempt to write a readonly database" in refused(result)


def test_writing_commands_say_that_the_files_cannot_be_written(here: Path) -> None:
    """The database keeps what it holds: `delete` does not leave the files of a study that is gone."""
    for result in as_reader(here, WRITING, here / "nasopt.db.artifacts"):
        assert "the artifact folder cannot be written (Permission denied)" in refused(result)
    assert [study["name"] for study in read("study", "list")] == ["tiny"]


def test_export_says_that_the_artifact_folder_is_not_there(here: Path) -> None:
    (here / "nasopt.db.artifacts").rename(here / "away")
    before = listing(here)
    line = refused(run(*at(here, READING[-1])))
    assert "nasopt.db.artifacts/tiny: the study's artifact folder is not there; bring it back, or name it with" in line
    assert listing(here) == before
    assert run(*READING[-1], "--artifacts", "away").code == 0
