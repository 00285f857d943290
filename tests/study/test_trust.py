"""A study that names code runs where somebody has trusted that code, and is looked at anywhere without running it."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import Result, run

from nasopt.config.study import StudyConfig, check_section
from nasopt.methods.registry import available, named_functions
from nasopt.study.trust import code_of, state_folder

pytestmark = pytest.mark.integration
WriteStudy = Callable[..., Path]

READING = ("list", "show", "trials", "pareto")
NAMES_NO_CODE: set[tuple[str, str]] = set()
"""Options, with their methods, that take any text."""
MODULE = """
from pathlib import Path
Path("{marker}").touch()

def keep_first(model, layer, block, candidates, keep):
    return candidates[:keep]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, and a state folder without any trust."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


def write_module(name: str, marker: str = "imported") -> None:
    Path(f"{name}.py").write_text(MODULE.format(marker=marker))


def change(spoil: Callable[[dict[str, Any]], object]) -> None:
    """A change that anyone with access to the database can make to the stored configuration."""
    with closing(sqlite3.connect("nasopt.db")) as connection:
        where = "key = 'nasopt:config'"
        (text,) = connection.execute(f"SELECT value_json FROM study_user_attributes WHERE {where}").fetchone()
        stored = json.loads(text)
        spoil(stored)
        connection.execute(f"UPDATE study_user_attributes SET value_json = ? WHERE {where}", [json.dumps(stored)])
        connection.commit()


def assert_refused(result: Result, *parts: str) -> None:
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize("option", ["pruning", "quantization"])
def test_code_named_in_a_database_is_not_imported(write_study: WriteStudy, option: str) -> None:
    assert run("study", "create", write_study()).code == 0
    write_module("named_in_the_database")
    change(lambda stored: stored["method_options"].update({option: "named_in_the_database:keep_first"}))
    for command in READING:
        result = run("study", command, *(() if command == "list" else ("tiny",)))
        assert result.code == 0, result.err
    refused = ("would run code that is not trusted", f"method_options.{option}", "--trust-study")
    assert_refused(run("study", "optimize", "tiny"), *refused)
    assert_refused(run("study", "controls", "tiny"), *refused)
    assert_refused(run("study", "export", "tiny", "--trial", 0, "--to", "model"), *refused)
    predicting = ("--profile", "a100", "--study", "tiny", "--trial", 0)
    assert_refused(run("device", "predict", *predicting), "there is no such trial")
    for command in (("plot", "tiny", "--to", "x.html"), ("report", "tiny", "-f", "json"), ("compare", "tiny", "tiny")):
        run("study", *command)
    assert not Path("imported").exists()
    assert run("study", "delete", "tiny", "--yes").code == 0
    assert not Path("imported").exists()


def test_a_models_code_runs_only_where_it_is_trusted(write_study: WriteStudy, tiny_bert: Path, tmp_path: Path) -> None:
    """The model folder brings a configuration class, which `trust_remote_code` runs."""
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_bert.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    assert run("study", "create", write_study(**{str(tiny_bert): str(model)})).code == 0
    change(lambda stored: stored["task"].update(trust_remote_code=True))
    assert_refused(run("study", "optimize", "tiny"), f"task.trust_remote_code of {model}")
    assert run("study", "show", "tiny").code == 0
    before = code_of(StudyConfig.from_json(json.dumps(stored_configuration())))
    (model / "modeling.py").write_text("print('mine')\n")
    assert code_of(StudyConfig.from_json(json.dumps(stored_configuration()))) != before
    config = json.loads((model / "config.json").read_text())
    (model / "modeling.py").unlink()
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "else/where--a.B"}}))
    assert code_of(StudyConfig.from_json(json.dumps(stored_configuration()))) != before


def stored_configuration() -> Any:
    with closing(sqlite3.connect("nasopt.db")) as connection:
        query = "SELECT value_json FROM study_user_attributes WHERE key = 'nasopt:config'"
        return json.loads(connection.execute(query).fetchone()[0])


@pytest.mark.usefixtures("workers_that_start_at_once")
def test_creating_from_a_file_is_trust_until_the_code_changes(write_study: WriteStudy, tmp_path: Path) -> None:
    write_module("of_the_users")
    path = write_study(options='pruning = "of_the_users:keep_first"', **{"epochs = 4": "epochs = 1"})
    no_more = (
        "study",
        "optimize",
        "tiny",
        "--timeout",
        0,
    )  # opens the study, and begins no trial
    assert run("study", "create", path).code == 0
    (note,) = (tmp_path / "state" / "nasopt" / "trusted").iterdir()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert note.is_relative_to(state_folder())
    result = run("study", "optimize", "tiny", "--n-trials", 1)
    assert result.code == 0, result.err
    write_module("of_the_users", marker="other")
    assert_refused(run(*no_more), "has changed since it was trusted")
    result = run("study", "optimize", "tiny", "--n-trials", 1, "--trust-study", "--workers", 2)
    assert result.code == 0, result.err
    assert run(*no_more).code == 0, "the option is remembered"
    note.unlink()
    assert_refused(run(*no_more), "is not trusted on this machine")
    assert run("study", "create", path, "--skip-if-exists").code == 0
    assert run(*no_more).code == 0, "the same file again is trust, too"


def test_trust_is_in_one_study_and_in_what_it_names(write_study: WriteStudy) -> None:
    """Neither another study that names the same, nor the same study with another function, is trusted by that."""
    write_module("of_the_users")
    path = write_study(options='pruning = "of_the_users:keep_first"')
    assert run("study", "create", path).code == 0
    assert run("study", "create", write_study(), "--name", "other").code == 0
    with closing(sqlite3.connect("nasopt.db")) as connection:
        connection.execute(
            "UPDATE study_user_attributes SET value_json = (SELECT value_json FROM study_user_attributes WHERE "
            "key = 'nasopt:config' AND value_json LIKE '%of_the_users%') WHERE key = 'nasopt:config'"
        )
        connection.commit()
    assert_refused(run("study", "optimize", "other"), "would run code that is not trusted", "of_the_users:keep_first")
    change(lambda stored: stored["method_options"].update(pruning="os:system"))
    assert_refused(run("study", "optimize", "tiny"), "would run code that is not trusted", "os:system")


def test_every_option_that_takes_a_function_is_asked_for(tmp_path: Path) -> None:
    """A method that took a function where `function_options` does not say so would run it without trust."""
    asked = 0
    for name, method in available().items():
        for option in method.about.options.model_fields:
            given = {option: "of_nobody:function"}
            taken = check_section(method.about.options, given)[0] is not None
            if option in method.about.function_options:
                assert taken, (name, option)
                assert named_functions(method, given) == given
                asked += 1
            elif taken:
                assert (name, option) in NAMES_NO_CODE
    assert asked >= 2


def test_a_study_without_code_needs_and_leaves_no_trust(write_study: WriteStudy, tmp_path: Path) -> None:
    assert run("study", "create", write_study()).code == 0
    assert not (tmp_path / "state").exists()
    assert code_of(StudyConfig.from_toml(write_study())) == {}


def test_trust_that_cannot_be_noted_is_a_warning(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file")
    write_module("of_the_users")
    result = run("study", "create", write_study(options='pruning = "of_the_users:keep_first"'))
    assert result.code == 0
    assert "will be asked for again" in result.err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda stored: stored.update(name="../victim/precious"), "cannot name a folder"),
        (lambda stored: stored.update(schema="1"), "is not one that nasopt wrote"),
        (lambda stored: stored["training"].update(epochs=0, colour=1), "2 errors: training"),
        (lambda stored: stored["method_options"].update(population_size="many"), "method_options.population_size"),
        (lambda stored: stored["method_options"].update(pruning="os.system('x'):f"), "package.module:function"),
        (lambda stored: stored.update(method="no\x1b[31mne"), r"method: 'no\x1b[31mne' is not a method"),
    ],
)
def test_a_stored_configuration_is_checked_like_a_file(
    write_study: WriteStudy, spoil: Callable[[dict[str, Any]], object], words: str
) -> None:
    assert run("study", "create", write_study()).code == 0
    change(spoil)
    for command in ("show", "optimize"):
        result = run("study", command, "tiny")
        assert_refused(result, "'tiny' has a stored configuration that cannot be read", words)
        assert result.err.removesuffix("\n").isprintable()
    assert run("study", "list").code == 0
    assert os.listdir("nasopt.db.artifacts") == ["tiny"]
