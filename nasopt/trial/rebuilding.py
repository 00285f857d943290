"""A finished trial's candidate once more, from what the trial left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.records import queries
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nasopt.tasks.base import Task


def rebuild(checkpoints: CheckpointStore, trial: FrozenTrial, task: Task) -> Candidate:
    """The candidate of a complete trial, from its checkpoint.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    key = queries.checkpoint_of(trial)
    assert key is not None  # every complete trial has one
    weights, architecture = checkpoints.read(key)
    model = WeightSource.restore(architecture, weights, task.load_model())
    return Candidate(model, architecture.with_precision(queries.precision_of(trial)), Lineage())
