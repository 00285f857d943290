"""Leases in SQLite, PostgreSQL and MariaDB, between processes that share no lock on a file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from hosts import GRACE_SECONDS, start_on
from processes import Started

from nasopt.host.locks import Lock, lease_with
from nasopt.storage import leases
from nasopt.storage.leases import LEASES, DatabaseLeases, leases_in
from nasopt.storage.rdb import open_storage, parse_url

pytestmark = pytest.mark.integration

MAKE = """
import time
from pathlib import Path
from nasopt.host.locks import Lock, lease_with
from nasopt.storage.leases import leases_in
from nasopt.storage.rdb import open_storage, parse_url
url, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
leases = leases_in(open_storage(parse_url(url)), 1)
lease_with(folder, leases)
with Lock(folder / ".made.lock"):
    if not (folder / "made").exists():
        (folder / ("begun-" + name)).touch()
        time.sleep(seconds)
        (folder / "made").touch()
"""


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param != "sqlite":
        return str(request.getfixturevalue({"postgresql": "postgres_url", "mariadb": "mariadb_url"}[request.param]))
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def ours(url: str) -> DatabaseLeases:
    found = leases_in(open_storage(parse_url(url)), 1)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "files"
    place.mkdir()
    return place


def begun(folder: Path) -> list[str]:
    return sorted(path.name.removeprefix("begun-") for path in folder.glob("begun-*"))


def wait_for(folder: Path, hosts: list[str]) -> None:
    deadline = time.monotonic() + 60
    while begun(folder) != hosts:
        assert time.monotonic() < deadline, begun(folder)
        time.sleep(0.02)


def test_of_processes_that_start_together_one_works(url: str, folder: Path) -> None:
    started = [start_on(f"host{number}", MAKE, url, folder, 1.0) for number in range(3)]
    results = [process.wait(60) for process in started]
    assert [result.returncode for result in results] == [0] * 3, [result.stderr for result in results]
    assert len(begun(folder)) == 1


def test_where_it_is_killed_another_takes_over_after_the_grace_period(url: str, folder: Path) -> None:
    first = start_on("first", MAKE, url, folder, 60)
    wait_for(folder, ["first"])
    second: Started = start_on("second", MAKE, url, folder, 0.0)
    time.sleep(1.5 * GRACE_SECONDS)  # its heart beats, so that it is believed
    assert begun(folder) == ["first"]
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGKILL)
    killed = time.monotonic()
    assert second.wait(60).returncode == 0
    assert time.monotonic() - killed > GRACE_SECONDS / 2
    assert begun(folder) == ["first", "second"]


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(ours: DatabaseLeases) -> None:
    from nasopt.host.identity import worker_identity

    lease = ours("x")
    lease.acquire()
    with ours._engine.begin() as connection:
        gone = {**worker_identity(), "started": 0.0}
        connection.execute(sqlalchemy.update(LEASES).values(holder=str(gone).replace("'", '"')))
    other = ours("x")
    began = time.monotonic()
    other.acquire()
    assert time.monotonic() - began < 5
    assert lease.is_lost
    assert not other.is_lost
    lease.release()  # gives back what is its own only
    assert not other.is_lost
    other.release()


def test_leases_of_different_names_and_studies_are_different(ours: DatabaseLeases) -> None:
    held = [ours("x"), ours("y"), DatabaseLeases(ours._engine, 2)("x")]
    for lease in held:
        lease.acquire()
    for lease in held:
        lease.release()
    with ours._engine.connect() as connection:
        assert connection.execute(sqlalchemy.select(LEASES)).all() == []


def test_a_wait_that_is_long_says_for_whom(
    ours: DatabaseLeases, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 0)
    lease = ours("sensitivity")
    lease.acquire()

    def asked_to_end() -> None:
        if caplog.messages:
            raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(leases, "stand_by", asked_to_end)
    with caplog.at_level("WARNING", logger="nasopt"), pytest.raises(KeyboardInterrupt):
        ours("sensitivity").acquire()
    assert f"(sensitivity): process {os.getpid()} on " in caplog.text
    lease.release()


def test_what_a_lost_lock_made_is_not_kept(ours: DatabaseLeases, folder: Path) -> None:
    from torch import tensor

    from nasopt.training.made_once import made_once

    lease_with(folder, ours)

    def make() -> dict[str, object]:
        calls.append(1)
        if len(calls) == 1:  # this process stands still, and another takes over and is done
            with ours._engine.begin() as connection:
                connection.execute(sqlalchemy.delete(LEASES))
        return {"x": tensor([float(len(calls))])}

    calls: list[int] = []
    try:
        assert made_once(folder, "numbers", [1], make)["x"].item() == 2.0  # type: ignore[arg-type]
    finally:
        lease_with(folder, None)


def test_no_lease_in_memory(tmp_path: Path) -> None:
    assert leases_in(None, 1) is None
    assert leases_in(optuna.storages.RDBStorage("sqlite:///:memory:"), 1) is None
    with Lock(tmp_path / ".lock") as lock:
        assert not lock.is_lost
