"""A trial's forward pass, as predictions need it: from its checkpoint, or from its parameters where that is gone."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.base import EncoderShape
from nasopt.errors import TrialNotFoundError, UnsupportedModelError
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.predicted.model import AnyWorkload
from nasopt.measurement.predicted.source import workload_of
from nasopt.measurement.predicted.transformer_cost import LayerShape, Workload
from nasopt.records import queries
from nasopt.study.opening import OpenStudy


def trial_workload(opened: OpenStudy, number: int, batch_size: int, sequence_length: int) -> AnyWorkload:
    """One forward pass of a trial's model.

    Raises:
        TrialNotFoundError: there is no such trial, or its shape is not known.
        UnsupportedModelError: it is neither an encoder of layers nor a chain of cells.
    """
    trial = find_trial(opened, number)
    base = base_shape(opened)
    store, key = opened.checkpoints, queries.checkpoint_of(trial)
    if key is not None and key in store:
        try:
            return workload_of(store.architecture(key), base, sequence_length, batch_size)
        except MeasurementError as error:
            raise UnsupportedModelError(f"--trial {number}: {error}") from None
    shapes = from_params(trial, base)
    if shapes is None:
        raise TrialNotFoundError(
            f"--trial {number}: its shape is not known (it is {trial.state.name}, and its checkpoint was not kept)"
        )
    return Workload(shapes, base.hidden_size, sequence_length, batch_size)


def find_trial(opened: OpenStudy, number: int) -> FrozenTrial:
    """The trial of that number.

    Raises:
        TrialNotFoundError: there is none.
    """
    trials = opened.study.get_trials(deepcopy=False)
    if number >= len(trials):
        last = f"0 to {len(trials) - 1}" if trials else "none; run `nasopt study optimize` first"
        raise TrialNotFoundError(f"--trial {number}: there is no such trial; the study has {last}")
    return trials[number]


def precision_of(trial: FrozenTrial) -> str | None:
    """The precision of the trial's stored weights, if the trial says so."""
    if trial.state == TrialState.COMPLETE:
        return queries.precision_of(trial)
    return trial.params.get("precision")


def base_shape(opened: OpenStudy) -> EncoderShape:
    """The shape of the study's base model, from its configuration alone: no code that comes with the model runs."""
    from nasopt.models.families import encoder_shape
    from nasopt.models.loading import load_config

    task = opened.config.task
    return encoder_shape(load_config(task.model, task.revision, False))


def from_params(trial: FrozenTrial, base: EncoderShape) -> tuple[LayerShape, ...] | None:
    """The layers that a genotype keeps; heads and neurons that it does not name are all there."""
    params = trial.params
    if "layer_0" not in params:
        return None
    return tuple(
        LayerShape(
            int(params.get(f"heads_{index}", base.num_heads)),
            base.head_size,
            int(params.get(f"ffn_{index}", base.ffn_size)),
        )
        for index in range(base.num_layers)
        if params.get(f"layer_{index}")
    )
