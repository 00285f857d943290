"""Opening databases: options, defaults and the errors a user can cause."""

import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from processes import run_code
from readers import read_only

from nasopt.errors import MachineError, StorageError
from nasopt.storage import rdb


def test_url_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)
    assert rdb.resolve_url(None) == "sqlite:///nasopt.db"
    monkeypatch.setenv("NASOPT_STORAGE", "sqlite:///env.db")
    assert rdb.resolve_url(None) == "sqlite:///env.db"
    assert rdb.resolve_url("sqlite:///option.db") == "sqlite:///option.db"


def test_a_url_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("sqlite:///file.db\n")
    assert rdb.resolve_url(f"@{tmp_path}/url") == "sqlite:///file.db"
    monkeypatch.setenv("NASOPT_STORAGE", f"@{tmp_path}/url")
    assert rdb.resolve_url(None) == "sqlite:///file.db"
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, words in [
        ("empty", "is empty"),
        ("none", "No such file"),
        ("bytes", "it is not text"),
        ("", "directory"),
    ]:
        with pytest.raises(StorageError, match=words):
            rdb.resolve_url(f"@{tmp_path}/{name}")


def test_an_at_sign_in_a_path_is_no_password(tmp_path: Path) -> None:
    assert rdb.parse_url(f"sqlite:///{tmp_path}/a@b@c.db").database == f"{tmp_path}/a@b@c.db"
    assert rdb.parse_url("postgresql://u:p%40ss@h/db").password == "p@ss"


def test_sqlite_is_opened_for_several_writers(tmp_path: Path) -> None:
    storage = rdb.open_storage(rdb.parse_url(f"sqlite:///{tmp_path}/a.db"))
    optuna.create_study(storage=storage, study_name="s")
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        # The transaction holds the write lock from its beginning: another writer is refused at once.
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(tmp_path / "a.db", timeout=0).execute("BEGIN IMMEDIATE")


def test_artifact_folder_lies_beside_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rdb.artifact_folder(rdb.parse_url(f"sqlite:///{tmp_path}/a.db")) == tmp_path / "a.db.artifacts"
    monkeypatch.chdir(tmp_path)
    assert rdb.artifact_folder(rdb.parse_url("postgresql://u@h/db")) == tmp_path / "nasopt-artifacts"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "not a database URL"),
        ("sqlite:////no/such/folder/x.db", "does not exist"),
        ("oraclex://u:secret@h/db", "driver is not installed"),
        ("mysql+nosuchdriver://u:secret@h/db", "driver is not installed"),
        ("postgresql://u:sec/secret@h/db", "cannot be opened|not a database URL"),
        ("postgresql://u:secret@h:port/db", "not a database URL"),
        ("postgresql://u:secret@127.0.0.1:1/db", "cannot be opened|driver is not installed"),
        ("postgresql://u:p@secret@127.0.0.1/db", "several @"),
        ("postgresql://u:p@secret/more@127.0.0.1/db", "several @"),
        ("postgresql://u:p@s?secret@127.0.0.1/db", "several @"),
        ("mysql://127.0.0.1:1/db?user=u&passwd=secret", "cannot be opened|driver is not installed"),
        ("postgresql://127.0.0.1:1/db?user=u&password=secret", "cannot be opened|driver is not installed"),
    ],
)
def test_errors_are_one_line_without_the_password(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        rdb.open_storage(rdb.parse_url(url))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("given", ["postgresql", "postgres"])
def test_a_url_without_a_driver_takes_the_one_of_the_extra(given: str) -> None:
    pytest.importorskip("psycopg")
    assert rdb.parse_url(f"{given}://u@h/db").drivername == "postgresql+psycopg"
    assert rdb.parse_url("postgresql+psycopg2://u@h/db").drivername == "postgresql+psycopg2"


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StorageError, match=r"pip install 'nasopt\[postgres\]'"):
        rdb.open_storage(rdb.parse_url("postgresql+psycopg2://u@h/db"))


def test_a_failing_database_is_explained_in_one_line() -> None:
    url = rdb.parse_url("postgresql://u:secret@h/db")
    failure = sqlalchemy.exc.OperationalError("SELECT 1", {}, RuntimeError("server gone\nHINT"))
    message = "the database failed: server gone; once it is back"
    with pytest.raises(MachineError, match=message) as caught, rdb.explaining_failures(url):
        raise optuna.exceptions.StorageInternalError("wrapped\nlines") from failure
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("clean_up", [UnboundLocalError("frozen_trial"), AssertionError("Should not reach.")])
def test_what_optuna_s_clean_up_raises_hides_no_failure(clean_up: Exception) -> None:
    url = rdb.parse_url("sqlite:///a.db")
    clean_up.__context__ = optuna.exceptions.StorageInternalError("database or disk is full")
    with pytest.raises(MachineError, match="disk is full"), rdb.explaining_failures(url):
        raise clean_up
    with pytest.raises(AssertionError, match="ours"), rdb.explaining_failures(url):
        raise AssertionError("ours")


def test_heartbeats_outlive_an_interruption(tmp_path: Path) -> None:
    storage = rdb.open_storage(rdb.parse_url(f"sqlite:///{tmp_path}/a.db"))
    trial = optuna.create_study(storage=storage, study_name="s").ask()
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE trial_heartbeats RENAME TO away")
    storage.record_heartbeat(trial._trial_id)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO trial_heartbeats")
    storage.record_heartbeat(trial._trial_id)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM trial_heartbeats").scalar() == 1


def test_a_database_that_must_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such database"):
        rdb.open_storage(rdb.parse_url(f"sqlite:///{tmp_path}/a.db"), must_exist=True)
    assert not list(tmp_path.iterdir())


def test_foreign_databases_are_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id INTEGER)")
    with pytest.raises(StorageError, match=r"not a study database .*orders"):
        rdb.open_storage(rdb.parse_url(f"sqlite:///{path}"))
    assert sqlalchemy.inspect(engine).get_table_names() == ["orders"]


def test_reading_makes_and_changes_nothing(tmp_path: Path) -> None:
    url = rdb.parse_url(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(StorageError, match="no such database"):
        rdb.open_storage(url, read_only=True)
    (tmp_path / "a.db").touch()
    with pytest.raises(StorageError, match="the database is empty"):
        rdb.open_storage(url, read_only=True)
    assert (tmp_path / "a.db").stat().st_size == 0
    optuna.create_study(storage=f"sqlite:///{tmp_path}/a.db", study_name="s")
    before = (tmp_path / "a.db").stat()
    study = optuna.load_study(study_name="s", storage=rdb.open_storage(url, read_only=True))
    assert study.trials == []
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.set_user_attr("a", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    assert (tmp_path / "a.db").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.integration
def test_a_database_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{tmp_path}/a.db", study_name="s")
    code = "import sys\nfrom nasopt.storage.rdb import open_storage, parse_url\nopen_storage(parse_url(sys.argv[1]))"
    with read_only(tmp_path):
        result = run_code(code, f"sqlite:///{tmp_path}/a.db", cwd=tmp_path, without_overrides=True)
    assert "StorageError" in result.stderr
    assert "the database cannot be opened: attempt to write a readonly database" in result.stderr


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("hello" * 1000)
    with pytest.raises(StorageError, match="not a database"):
        rdb.open_storage(rdb.parse_url(f"sqlite:///{tmp_path}/a.db"))
