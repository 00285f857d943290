"""Disks that are full or read-only, and folders that vanish: the work ends at once, and no trial is charged with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from command_line import run
from disks import files_of_at_most, fill, remount, small_disk

from nasopt.execution.progress import QuietView
from nasopt.execution.search import remaining_budget
from nasopt.records import names as attributes

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.integration
COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL


@contextmanager
def at_phase(monkeypatch: pytest.MonkeyPatch, phase: str, act: Callable[[], Any]) -> Iterator[None]:
    """Does something when a trial first comes to a phase."""
    acts = iter([act])
    whole = QuietView.phase

    def watch(view: QuietView, number: int, current: str, done: int, total: int) -> None:
        if number >= 0 and current == phase:
            next(acts, lambda: None)()
        whole(view, number, current, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(QuietView, "phase", watch)
        yield


def assert_stopped(place: Place, reason: str, *, n_trials: int = 5) -> None:
    """The next trial is stopped with exit code 1 and one line; none comes after it, and no budget is spent."""
    before, left = len(place.trials()), remaining_budget(place.open(), 8)
    result = place.study("optimize", "--n-trials", n_trials, "--quiet")
    assert result.code == 1, result.err
    assert len(result.err.strip().splitlines()) == 1
    assert reason in result.err
    assert len(place.trials()) == before + 1
    assert remaining_budget(place.open(), 8) == left


def assert_goes_on(place: Place) -> None:
    """The stopped trial is tried again, and the rest of the budget is there."""
    left = remaining_budget(place.open(), 8)
    stopped = place.trials()[-1]
    place.optimize(2)
    trials = place.trials()
    retried = next(trial for trial in trials if trial.user_attrs.get(attributes.RETRY_OF) == stopped.number)
    assert (retried.state, trials[-1].state) == (COMPLETE, COMPLETE)
    assert remaining_budget(place.open(), 8) == left - 2
    place.assert_tidy()


def claim(place: Place, *options: object) -> None:
    """Makes a copied or moved study's files name its database, as any writing command does."""
    claimed = place.study("optimize", "--timeout", 0, "--quiet", *options)
    assert claimed.code == 0, claimed.err


def on_disk(place: Place, disk: Path) -> None:
    """Moves a study's files to a disk; its database stays where it is."""
    claim(place)
    shutil.move(place.artifacts, disk / "artifacts")
    place.artifacts.symlink_to(disk / "artifacts")


def test_a_file_that_may_not_grow(begun: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    size = max(path.stat().st_size for path in (begun.files / "checkpoints").iterdir())
    with files_of_at_most(size // 2):  # a checkpoint is larger, and a database may not be
        result = begun.study("optimize", "--n-trials", 5, "--quiet")
    assert result.code == 1
    assert "File too large" in result.err or "disk I/O error" in result.err
    assert len([trial for trial in begun.trials() if trial.state == FAIL]) <= 1
    assert remaining_budget(begun.open(), 8) == 7
    begun.optimize(1)


def test_a_disk_that_fills_up_in_a_trial(begun: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        on_disk(begun, disk)
        with at_phase(monkeypatch, "storing", lambda: fill(disk)):
            assert_stopped(begun, "No space left on device")
        assert_stopped(begun, "", n_trials=1)
        (disk / "ballast").unlink()
        assert_goes_on(begun)


def test_a_disk_that_is_full_of_the_database(begun: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        claim(begun)
        for file in tmp_path.glob("nasopt.db*"):
            shutil.move(file, disk)
        place = type(begun)(f"sqlite:///{disk}/nasopt.db", begun.artifacts)
        claim(place, "--adopt")
        with at_phase(monkeypatch, "storing", lambda: fill(disk)):
            result = place.study("optimize", "--n-trials", 5, "--quiet")
        assert result.code == 1
        assert "database or disk is full" in result.err or "disk I/O error" in result.err
        (disk / "ballast").unlink()
        assert remaining_budget(place.open(), 8) == 7
        place.optimize(2)
        assert [trial.state for trial in place.trials()][2:] == [FAIL, COMPLETE, COMPLETE]


def test_a_disk_that_becomes_read_only(begun: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        on_disk(begun, disk)
        with at_phase(monkeypatch, "storing", lambda: remount(disk, read_only=True)):
            assert_stopped(begun, "Read-only file system")
        remount(disk, read_only=False)
        assert_goes_on(begun)


def test_a_disk_without_room_for_the_base_model(study_file: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 18) as disk:
        created = run(
            "study", "create", study_file, "--storage", f"sqlite:///{tmp_path}/a.db", "--artifacts", disk / "artifacts"
        )
        assert created.code == 0, created.err
        result = run("study", "optimize", "tiny", "--storage", f"sqlite:///{tmp_path}/a.db")
        assert result.code == 1
        assert "MB are needed for the weights of the base model" in result.err
        assert "base model ... 0 %" not in result.err, "nothing was trained"


@pytest.mark.parametrize("phase", ["training", "storing"])
def test_a_folder_that_is_removed_in_a_trial(begun: Place, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    away = begun.artifacts.with_name("away")
    with at_phase(monkeypatch, phase, lambda: os.rename(begun.artifacts, away)):
        assert_stopped(begun, "the study's artifact folder is gone")
    assert not begun.artifacts.exists(), "nobody makes it anew"
    result = begun.study("optimize", "--n-trials", 1, "--quiet")
    assert result.code == 2
    assert "the study's artifact folder is not there" in result.err
    away.rename(begun.artifacts)
    assert_goes_on(begun)


@pytest.mark.usefixtures("workers_that_start_at_once")
def test_workers_end_together(begun: Place, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        on_disk(begun, disk)
        fill(disk)
        result = begun.study("optimize", "--n-trials", 6, "--workers", 2, "--quiet")
        assert result.code == 1
        assert len([line for line in result.err.splitlines() if line.startswith("nasopt:")]) == 1
        assert len(begun.trials()) <= 4
        assert remaining_budget(begun.open(), 8) == 7
        (disk / "ballast").unlink()
        begun.optimize(1)
