"""Rebuilds a finished trial's candidate from what the trial left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.weights.source import Restore

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nasopt.tasks.base import Task


def restore_of(method: Method) -> Restore:
    """The function that makes the models of a study again from checkpoints, the base model and controls too."""
    return method.about.sources[0].restore


def rebuild(method: Method, checkpoints: CheckpointStore, trial: FrozenTrial, task: Task) -> Candidate:
    """The candidate of a complete trial, from its checkpoint.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    key = queries.checkpoint_of(trial)
    assert key is not None  # every complete trial has one
    weights, architecture = checkpoints.read(key)
    model = restore_of(method)(architecture, weights, task.load_model())
    return Candidate(model, architecture.with_precision(queries.precision_of(trial)), Lineage())
