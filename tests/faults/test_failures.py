"""A fault in one trial fails that trial, with its reason; a fault around it ends the work cleanly."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from cases import mostly_slow
from command_line import run

from nasopt.architecture.genotype import FFN_STEP
from nasopt.execution.search import remaining_budget
from nasopt.records import names as attributes
from nasopt.study.recovery import fail_interrupted
from nasopt.tasks.classification import TextClassification
from nasopt.training import loop, teacher
from nasopt.trial.objective import Objective

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.integration
COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL


def once(broken: Callable[..., Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    """A call that breaks the first time only."""
    calls = iter([broken])
    return lambda *arguments, **options: next(calls, whole)(*arguments, **options)


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_arguments: Any, **_options: Any) -> None:
        raise error

    return function


def half_written(tensors: Any, path: Path, metadata: Any) -> None:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_one_failed(place: Place, reason: str) -> None:
    place.optimize(2)
    trials = place.trials()
    assert [trial.state for trial in trials] == [COMPLETE, COMPLETE, FAIL, COMPLETE]
    assert reason in trials[2].user_attrs[attributes.FAILURE]
    shown = json.loads(place.study("trials", "-f", "json").out)
    assert reason in shown[2]["failure"]
    assert not trials[2].user_attrs.get(attributes.INTERRUPTED)
    place.assert_tidy()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory left")])
def test_memory_that_runs_out(begun: Place, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(loop._Run, "_step", once(raising(error), loop._Run._step))
    assert_one_failed(begun, f"{type(error).__name__}: {error}")


def test_a_loss_that_is_not_finite(begun: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TextClassification.loss

    def not_finite(task: TextClassification, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return whole(task, outputs, labels) * float("nan")

    monkeypatch.setattr(TextClassification, "loss", once(not_finite, whole))
    assert_one_failed(begun, "TrainingDivergedError: the loss became nan")


def test_a_full_disk_while_a_checkpoint_is_written(begun: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    monkeypatch.setattr(safetensors.torch, "save_file", once(half_written, safetensors.torch.save_file))
    left = remaining_budget(begun.open(), 8)
    result = begun.study("optimize", "--n-trials", 5, "--quiet")
    assert result.code == 1
    assert result.err.startswith("nasopt: trial 2 was stopped: OSError: [Errno 28] No space left on device")
    assert len(begun.trials()) == 3
    assert remaining_budget(begun.open(), 8) == left
    begun.optimize(2)
    trials = begun.trials()
    assert [trial.state for trial in trials[2:]] == [FAIL, COMPLETE, COMPLETE]
    assert "No space left on device" in trials[2].user_attrs[attributes.FAILURE]
    assert (trials[3].user_attrs[attributes.RETRY_OF], trials[3].params) == (2, trials[2].params)
    assert remaining_budget(begun.open(), 8) == left - 2
    begun.assert_tidy()


def test_the_first_three_failures_of_one_reason_end_the_search(created: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(range(100))
    whole = TextClassification.evaluate

    def out_of_memory(task: TextClassification, model: Any, *arguments: Any) -> Any:
        if begun_with_base(created):
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {next(sizes)}.5 GiB")
        return whole(task, model, *arguments)

    monkeypatch.setattr(TextClassification, "evaluate", out_of_memory)
    result = created.study("optimize", "--quiet")
    assert result.code == 1
    assert "the first 3 trials of the study failed for one reason: OutOfMemoryError: CUDA out of memory" in result.err
    assert [trial.state for trial in created.trials()] == [COMPLETE, FAIL, FAIL, FAIL]
    assert remaining_budget(created.open(), 8) == 5
    result = created.study("optimize", "--n-trials", 2, "--quiet")
    assert (result.code, len(created.trials())) == (1, 6)
    assert "all 2 trials of this run failed, the last with: OutOfMemoryError" in result.err
    monkeypatch.undo()
    created.optimize(1)


def begun_with_base(place: Place) -> bool:
    return any(trial.state == COMPLETE for trial in place.trials())


def test_a_base_model_that_cannot_be_measured(created: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextClassification, "evaluate", raising(ValueError("the quality is nan")))
    result = created.study("optimize", "--n-trials", 1, "--quiet")
    assert result.code == 1
    assert "the base model could not be measured: ValueError: the quality is nan" in result.err


def test_nothing_to_do_is_no_failure(begun: Place) -> None:
    study = begun.open().study
    for _ in range(7):
        study.ask().set_user_attr(attributes.FAILURE, "not finite")
        study.tell(study.get_trials()[-1].number, state=FAIL)
    result = begun.study("optimize")
    assert result.code == 0
    assert "all 8 trials of the search are done" in result.err


def test_a_full_disk_while_the_teacher_s_outputs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OSError, match="No space left"):
        teacher._allocate(tmp_path / "hidden.bin", torch.bfloat16, (10, 4))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_the_database(begun: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own refusal, by its limit on pages."""
    from sqlalchemy import event

    from nasopt.storage import rdb

    open_database = rdb._make_concurrent

    def open_full(engine: Any) -> None:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=1"))
        open_database(engine)

    monkeypatch.setattr(rdb, "_make_concurrent", open_full)
    result = begun.study("optimize", "--n-trials", 50, "--quiet")
    monkeypatch.setattr(rdb, "_make_concurrent", open_database)
    assert result.code == 1, result.err
    assert "the database failed: database or disk is full" in result.err
    assert len(result.err.strip().splitlines()) == 1
    done = len([trial for trial in begun.trials() if trial.state == COMPLETE])
    begun.optimize(1)
    assert len([trial for trial in begun.trials() if trial.state == COMPLETE]) == done + 1
    begun.assert_tidy()


@pytest.mark.parametrize("late", ["training", "telling"])
def test_a_process_that_stood_still_gives_its_trial_up(
    begun: Place, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """A suspended machine wakes up, and another worker has taken the trial for dead."""

    def give_up(*arguments: Any, **options: Any) -> Any:
        study = begun.open().study
        (trial,) = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        fail_interrupted(study, trial, "interrupted: no sign of life")
        return whole(*arguments, **options)

    place, name = (loop._Run, "_step") if late == "training" else (Objective, "collect")
    whole = getattr(place, name)
    monkeypatch.setattr(place, name, once(give_up, whole))
    begun.optimize(3)
    trials = begun.trials()
    assert [trial.state for trial in trials[2:]] == [FAIL, COMPLETE, COMPLETE]
    assert trials[2].user_attrs[attributes.FAILURE] == "interrupted: no sign of life"
    assert trials[3].user_attrs[attributes.RETRY_OF] == 2
    begun.assert_tidy()


def damage(place: Place, key: str) -> None:
    path = place.files / "checkpoints" / f"{key}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(place: Place, key: str) -> None:
    path = place.files / "checkpoints" / f"{key}.safetensors"
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("spoil", mostly_slow([damage, truncate], (truncate,)))
def test_a_damaged_checkpoint_fails_the_trial_that_inherits_from_it(
    begun: Place, spoil: Callable[[Place, str], None]
) -> None:
    parent = begun.trials()[1]
    spoil(begun, parent.user_attrs[attributes.CHECKPOINT])
    study = begun.open().study
    for layer in range(2):
        smaller = {**parent.params, f"ffn_{layer}": FFN_STEP, "heads_2": 3, "training": "finetune"}
        study.enqueue_trial(smaller, user_attrs={attributes.PARENT: parent.number})
    begun.optimize(2)
    trials = begun.trials()
    assert [trial.state for trial in trials[2:]] == [FAIL, COMPLETE]
    assert "damaged (its checksum does not match)" in trials[2].user_attrs[attributes.FAILURE]
    # From then on its children start from the base model's weights.
    assert trials[3].user_attrs[attributes.PARENT] == 0


def test_a_damaged_base_model_says_how_to_mend_it(begun: Place) -> None:
    damage(begun, json.loads((begun.files / "base.json").read_text())["checkpoint"])
    before = begun.trials()
    result = begun.study("optimize", "--n-trials", 1)
    assert result.code == 2
    assert "damaged (its checksum does not match); pass --rebuild" in result.err
    assert len(begun.trials()) == len(before)
    assert begun.study("optimize", "--n-trials", 1, "--rebuild").code == 0
    assert [trial.state for trial in begun.trials()] == [COMPLETE] * (len(before) + 1)
    begun.assert_tidy()


def test_the_base_model_of_a_former_study_is_not_taken_for_this_one_s(begun: Place, study_file: Path) -> None:
    record = begun.files / "base.json"
    former = record.read_text()
    for file in begun.artifacts.parent.glob("nasopt.db*"):
        file.unlink()
    other = begun.artifacts.parent / "other.toml"
    other.write_text(study_file.read_text().replace("learning_rate = 3e-3", "learning_rate = 1e-3"))
    assert run("study", "create", other, *begun.options[1:]).code == 0
    begun.optimize(1)
    (own,) = [path / "base.json" for path in begun.artifacts.iterdir() if path.is_dir() and path != begun.files]
    assert record.read_text() == former
    assert json.loads(own.read_text())["checkpoint"] != json.loads(former)["checkpoint"]
    assert begun.trials()[0].user_attrs[attributes.CHECKPOINT] == json.loads(own.read_text())["checkpoint"]
