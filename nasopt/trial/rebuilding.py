"""Rebuilds a finished trial's candidate from what the trial left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.architecture.outside import OutsideArchitecture
from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.weights.source import Restore, WeightSource

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nasopt.tasks.base import Task


def restore_of(method: Method) -> Restore:
    """The function that makes the models of a study again from checkpoints, the base model and controls too."""
    return method.about.sources[0].restore


def task_of(trial: FrozenTrial, task: Task) -> Task:
    """The task that reads texts for a trial: the study's, or that for a model that was made elsewhere.

    Raises:
        UnsupportedModelError: such a model is no longer where it was.
    """
    outside = queries.outside_of(trial)
    return task if outside is None else task.for_model(outside.model)


def rebuild(method: Method, checkpoints: CheckpointStore, trial: FrozenTrial, task: Task) -> Candidate:
    """The candidate of a complete trial, from its checkpoint.

    Args:
        method: the study's.
        checkpoints: the study's.
        trial: any complete one.
        task: the trial's, see :func:`task_of`.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    key = queries.checkpoint_of(trial)
    assert key is not None  # every complete trial has one
    weights, architecture = checkpoints.read(key)
    is_outside = isinstance(architecture, OutsideArchitecture)
    restore = WeightSource.restore if is_outside else restore_of(method)
    model = restore(architecture, weights, task.load_model())
    return Candidate(model, architecture.with_precision(queries.precision_of(trial)), Lineage())
