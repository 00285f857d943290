"""Preparations of a study: made once, found by every later process."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nasopt.errors import CheckpointError
from nasopt.training.context import Context
from nasopt.trial.preparation import prepare


def again(context: Context, *, has_trials: bool = False, seed: int | None = None) -> tuple[Context, set[str]]:
    """The same study prepared by another process, and the work that was done for it."""
    told: set[str] = set()
    config = context.config if seed is None else context.config.model_copy(update={"seed": seed})
    found = prepare(config, context.folder, lambda phase, done, total: told.add(phase), has_trials=has_trials)
    return found, told


def test_the_second_process_finds_what_the_first_one_made(context: Context) -> None:
    found, told = again(context)
    assert told == {"tokenising"}
    assert found.base_key == context.base_key
    assert found.shape == context.shape
    theirs = context.base_model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in found.base_model.state_dict().items())
    for role, split in context.splits.items():
        assert found.splits[role].fingerprint == split.fingerprint


def test_a_former_studys_base_model_is_made_anew_unless_trials_were_compared_with_it(context: Context) -> None:
    found, told = again(context, has_trials=True, seed=5)
    assert (found.base_key, told) == (context.base_key, {"tokenising"})
    found, told = again(context, seed=5)
    assert found.base_key != context.base_key
    assert told == {"tokenising", "base model"}


def test_what_killed_writers_left_is_removed(context: Context) -> None:
    left = context.folder / "data" / "tmp1234"
    left.write_text("half")
    again(context)
    assert not left.exists()


def test_a_damaged_base_model_is_told(context: Context) -> None:
    file = context.checkpoints.folder / f"{context.base_key}.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match="--rebuild"):
        again(context, has_trials=True)


def test_nothing_of_a_trial_is_known_between_trials(context: Context) -> None:
    found, _ = again(context)
    assert (found.base, found.number, found.parent) == (None, -1, None)
    assert replace(found, base=None).base_lineage.parent is None
