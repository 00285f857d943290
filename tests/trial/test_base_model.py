"""The base model of a study: trained once, and found again by what it was made from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.errors import CheckpointError
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.tasks.opening import open_task
from nasopt.training.context import Context
from nasopt.trial.base_model import RECORD, BaseModel, forget_damaged_base

CPU = torch.device("cpu")


class Watcher:
    """Counts the steps of the training, and notes for which checkpoint it ended."""

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        self.folder, self.steps, self.key = folder, 0, ""

    def on_step(self, done: int, total: int) -> None:
        self.steps += 1
        assert (self.steps, total) == (done, 40)  # 4 epochs of 10 steps

    def finish(self, key: str) -> None:
        self.key = key


def base_of(context: Context, config: StudyConfig | None = None) -> BaseModel:
    """The parts of a prepared study's base model; with another configuration if one is given."""
    return BaseModel(
        config or context.config, context.task, context.splits["train"], context.folder, context.checkpoints
    )


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_is_found_again(context: Context) -> None:
    stored = base_of(context).stored(must_stay=False)
    assert stored is not None
    model, key = stored
    assert key == context.base_key
    assert same(model, context.base_model)
    assert not model.training


def test_it_is_trained_under_the_eyes_of_the_method(context: Context) -> None:
    (context.folder / RECORD).unlink()
    assert base_of(context).stored(must_stay=True) is None
    watchers: list[Watcher] = []
    told: list[tuple[str, int, int]] = []

    def watch(model: PreTrainedModel, folder: Path) -> Watcher:
        watchers.append(Watcher(model, folder))
        return watchers[-1]

    model, key = base_of(context).trained(CPU, lambda *phase: told.append(phase), watch)
    (watcher,) = watchers
    assert (watcher.steps, watcher.key, watcher.folder) == (40, key, context.folder)
    assert told == [("base model", step, 40) for step in range(1, 41)]
    assert json.loads((context.folder / RECORD).read_text())["checkpoint"] == key
    stored = base_of(context).stored(must_stay=False)
    assert stored is not None
    assert same(stored[0], model)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"base_training": {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3}}]
)
def test_one_made_from_something_else_counts_only_where_it_must_stay(
    context: Context, change: dict[str, object]
) -> None:
    other = base_of(context, StudyConfig.model_validate({**context.config.model_dump(), **change}))
    assert other.stored(must_stay=False) is None
    stored = other.stored(must_stay=True)
    assert stored is not None
    assert stored[1] == context.base_key


def test_what_does_not_concern_it_may_change(context: Context) -> None:
    training = context.config.training.model_copy(update={"epochs": 9})
    config = context.config.model_copy(update={"name": "other", "training": training})
    assert base_of(context, config).stored(must_stay=False) is not None


def test_a_damaged_one_is_made_again_on_demand_only(context: Context) -> None:
    forget_damaged_base(context.folder, context.checkpoints)
    assert (context.folder / RECORD).is_file()  # it is whole
    file = context.checkpoints.folder / f"{context.base_key}.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match="pass --rebuild to make the base model again"):
        base_of(context).stored(must_stay=False)
    forget_damaged_base(context.folder, context.checkpoints)
    assert base_of(context).stored(must_stay=True) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"checkpoint": "../../base", "origin": ""}', '{"origin": ""}', '{"checkpoint": 1']
)
@pytest.mark.parametrize("must_stay", [False, True])
def test_a_damaged_record_is_told_in_one_line_and_forgotten_on_demand(
    context: Context, content: str, must_stay: bool
) -> None:
    (context.folder / RECORD).write_text(content)
    with pytest.raises(CheckpointError, match=r"base\.json: .* damaged.*; pass --rebuild") as caught:
        base_of(context).stored(must_stay)
    assert "\n" not in str(caught.value)
    forget_damaged_base(context.folder, context.checkpoints)
    assert base_of(context).stored(must_stay) is None


def test_a_record_that_names_another_model_s_checkpoint_is_refused(context: Context) -> None:
    other = context.checkpoints.write({"a": torch.ones(2)}, Architecture.full(context.shape))
    (context.folder / RECORD).write_text(json.dumps({"checkpoint": other, "origin": ""}))
    with pytest.raises(CheckpointError, match=r"base\.json: names the checkpoint of another model; delete this file"):
        base_of(context).stored(must_stay=True)


def test_there_is_nothing_to_forget_in_a_new_folder(context: Context, tmp_path: Path) -> None:
    forget_damaged_base(tmp_path / "new", context.checkpoints)
    assert replace(base_of(context), folder=tmp_path / "new").stored(must_stay=True) is None


@pytest.mark.parametrize("train_base", [False, True])
def test_a_model_that_comes_trained_is_trained_further_if_wanted(
    context: Context, tmp_path: Path, train_base: bool
) -> None:
    trained = tmp_path / "trained"
    context.base_model.save_pretrained(trained)
    context.task.tokenizer.save_pretrained(trained)
    task = context.config.task.model_copy(update={"model": str(trained), "train_base": train_base})
    config = context.config.model_copy(update={"task": task})
    folder = tmp_path / "study"
    folder.mkdir()
    maker = BaseModel(
        config, open_task(config), context.splits["train"], folder, CheckpointStore(folder / "checkpoints")
    )
    assert maker.task.has_head
    model, _ = maker.trained(CPU, lambda phase, done, total: None, lambda model, folder: None)
    assert same(model, context.base_model) != train_base
