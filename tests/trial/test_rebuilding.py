"""A finished trial's candidate, rebuilt."""

from __future__ import annotations

import optuna
import pytest
import torch

from nasopt.architecture.encoder import Architecture
from nasopt.errors import CheckpointError
from nasopt.methods.genetic import GeneticMethod
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.training.context import Context
from nasopt.training.weights import Cut
from nasopt.trial.rebuilding import rebuild

METHOD = GeneticMethod(GeneticOptions(start="base"))


def finished(key: str) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(values=[0.9, 1.0, 1.0], user_attrs={"checkpoint": key, "precision": "int8"})


def test_it_has_the_weights_the_shape_and_the_precision_of_the_trial(context: Context) -> None:
    candidate = Cut().candidate(Architecture.masked(context.shape, [0, 1, 1]), context)
    key = context.checkpoints.write(candidate.model.state_dict(), candidate.architecture)
    again = rebuild(METHOD, context.checkpoints, finished(key), context.task)
    assert again.architecture == candidate.architecture.with_precision("int8")
    found = again.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in candidate.model.state_dict().items())
    assert not again.model.training


def test_a_checkpoint_that_is_gone_is_told(context: Context) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint is not there"):
        rebuild(METHOD, context.checkpoints, finished("0" * 64), context.task)
