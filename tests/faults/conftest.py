"""Studies that have begun, made once for each database and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from command_line import Result, run
from study_text import study_text

from nasopt.records import names as attributes
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.study.opening import OpenStudy, open_study

if TYPE_CHECKING:
    from postgres import Server

OPTIONS = """
population_size = 4
generations = 2
quantization_prob = 0
crossover_prob = 0
mutation_prob = 1
start = "base"
mutations = ["remove_any_heads", "remove_ffn"]
"""


@dataclass(frozen=True)
class Place:
    """The place of a study: its database and its files."""

    url: str
    artifacts: Path

    @property
    def options(self) -> tuple[object, ...]:
        return "tiny", "--storage", self.url, "--artifacts", self.artifacts

    @property
    def files(self) -> Path:
        return self.artifacts / "tiny"

    def study(self, verb: str, *arguments: object) -> Result:
        return run("study", verb, *self.options, *arguments)

    def optimize(self, n_trials: int) -> None:
        result = self.study("optimize", "--n-trials", n_trials, "--quiet")
        assert result.code == 0, result.err

    def open(self) -> OpenStudy:
        return open_study(parse_url(self.url), "tiny", self.artifacts)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="tiny", storage=open_storage(parse_url(self.url))).trials

    def assert_tidy(self) -> None:
        """No trial is under way; no temporary file; no checkpoint that nobody knows or needs."""
        trials = self.trials()
        assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
        assert not list(self.artifacts.rglob(".tmp-*"))
        assert not list(self.artifacts.rglob("tmp*"))
        complete = {t.user_attrs[attributes.CHECKPOINT] for t in trials if t.state.name == "COMPLETE"}
        assert {path.stem for path in (self.files / "checkpoints").iterdir()} <= complete


NewPlace = Callable[[Path], Place]


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(study_text(tiny_bert, sentiment, OPTIONS, base_epochs=3))
    return path


@pytest.fixture(scope="session")
def begun_on_sqlite(tmp_path_factory: pytest.TempPathFactory, study_file: Path) -> Place:
    folder = tmp_path_factory.mktemp("begun")
    return _begin(Place(f"sqlite:///{folder}/nasopt.db", folder / "artifacts"), study_file)


@pytest.fixture(scope="session")
def begun_on_postgres(tmp_path_factory: pytest.TempPathFactory, study_file: Path, postgres_server: Server) -> Place:
    folder = tmp_path_factory.mktemp("begun")
    return _begin(Place(postgres_server.new_database(), folder / "artifacts"), study_file)


def _begin(place: Place, study_file: Path) -> Place:
    created = run("study", "create", study_file, "--storage", place.url, "--artifacts", place.artifacts)
    assert created.code == 0, created.err
    place.optimize(1)
    return place


@pytest.fixture
def begun(begun_on_sqlite: Place, tmp_path: Path) -> Place:
    """A study in SQLite with its base model and one more trial."""
    return _copy_sqlite(begun_on_sqlite, tmp_path)


@pytest.fixture
def begun_on_server(begun_on_postgres: Place, postgres_server: Server, tmp_path: Path) -> Place:
    """The same in PostgreSQL."""
    place = Place(postgres_server.new_database(template=begun_on_postgres.url), tmp_path / "artifacts")
    adopted = place.study("optimize", "--timeout", 0, "--adopt")  # it gets a copy of the files
    assert adopted.code == 0, adopted.err
    return place


@pytest.fixture(params=["sqlite", "postgresql"])
def begun_anywhere(request: pytest.FixtureRequest) -> Place:
    """The same in SQLite, and in PostgreSQL."""
    place: Place = request.getfixturevalue({"sqlite": "begun", "postgresql": "begun_on_server"}[request.param])
    return place


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> NewPlace:
    """Makes a study of a file in SQLite, and in PostgreSQL."""
    on_server = request.param == "postgresql"
    url = request.getfixturevalue("postgres_url") if on_server else f"sqlite:///{tmp_path}/nasopt.db"

    def create(study_file: Path) -> Place:
        place = Place(url, tmp_path / "artifacts")
        created = run("study", "create", study_file, "--storage", place.url, "--artifacts", place.artifacts)
        assert created.code == 0, created.err
        return place

    return create


@pytest.fixture
def created_anywhere(new_place: NewPlace, study_file: Path) -> Place:
    """A study that has not begun."""
    return new_place(study_file)


@pytest.fixture
def created(study_file: Path, tmp_path: Path) -> Place:
    """A study in SQLite that has not begun."""
    return create_in(tmp_path, study_file)


def create_in(folder: Path, study_file: Path) -> Place:
    """A new study whose database lies in a folder, and its files in another one inside it."""
    place = Place(f"sqlite:///{folder}/nasopt.db", folder / "artifacts")
    made = run("study", "create", study_file, "--storage", place.url, "--artifacts", place.artifacts)
    assert made.code == 0, made.err
    return place


def _copy_sqlite(origin: Place, folder: Path) -> Place:
    for file in origin.artifacts.parent.glob("nasopt.db*"):
        shutil.copy(file, folder)
    shutil.copytree(origin.artifacts, folder / "artifacts")
    return Place(f"sqlite:///{folder}/nasopt.db", folder / "artifacts")
