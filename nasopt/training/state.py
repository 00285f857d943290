"""A training at the end of an epoch, as tensors: going on from them ends in the same weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.errors import CheckpointError
from nasopt.host.object_store import fetch
from nasopt.storage.tensors import read_tensors, write_tensors

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class TrainingState:
    """The state of a training at the end of an epoch.

    Attributes:
        epochs: the number of epochs done so far.
        steps: the number of steps of the first optimizer done so far.
        tensors: by name, on any device: weights, and what the optimizers keep of them, in the parameters' shapes (steps
            are scalars); and the states of the random generators, uint8, (bytes,).
    """

    epochs: int
    steps: int
    tensors: dict[str, Tensor]


def save_state(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    device: torch.device,
    epochs: int,
    steps: int,
) -> TrainingState:
    """The state of a training; its tensors are the live ones, with the shapes that :class:`TrainingState` names."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{parameter}.{name}": value for name, value in values.items()}
    tensors["random.order"] = generator.get_state()
    tensors["random.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    return TrainingState(epochs, steps, tensors)


def load_state(
    state: TrainingState,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    device: torch.device,
) -> None:
    """Restores model, optimizers and random generators, but not the learning rates, which the caller sets.

    Args:
        state: the state of a model whose parameters have the same names and shapes.
        model: gets the weights.
        optimizers: as many as were saved, over the same parameters.
        generator: the source of the order of the examples.
        device: where the model is trained.
    """
    model.load_state_dict(_below(state.tensors, "model."))
    for number, optimizer in enumerate(optimizers):
        document = optimizer.state_dict()
        document["state"] = {}
        for name, value in _below(state.tensors, f"optimizer.{number}.").items():
            parameter, _, key = name.partition(".")
            document["state"].setdefault(int(parameter), {})[key] = value.clone()
        optimizer.load_state_dict(document)
    generator.set_state(state.tensors["random.order"].cpu())
    torch.set_rng_state(state.tensors["random.cpu"].cpu())
    if device.type == "cuda" and "random.cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["random.cuda"].cpu(), device)


def write_state(path: Path, state: TrainingState, origin: str, notes: Mapping[str, Any]) -> None:
    """Writes down where a training is, so that a process that is killed loses at most an epoch.

    Args:
        path: the file; its folder exists.
        state: its tensors have the shapes that :class:`TrainingState` names.
        origin: a hash of all that the training depends on.
        notes: the caller's own course of the training, JSON.
    """
    progress = {"epochs": state.epochs, "steps": state.steps, **notes}
    write_tensors(path, state.tensors, {"origin": origin, "progress": json.dumps(progress)})


def read_state(path: Path, origin: str, what: str) -> tuple[TrainingState, dict[str, Any]] | None:
    """The state and the notes that :func:`write_state` wrote; None where there are none of this origin.

    Args:
        path: the file.
        origin: the hash that it was written with.
        what: the name of the training, for the log.

    Returns:
        Tensors in the shapes that :class:`TrainingState` names, on the CPU, and the notes.
    """
    if not fetch(path):
        return None
    try:
        tensors, metadata = read_tensors(path)
    except CheckpointError as error:
        logger.warning("%s; %s is trained from the start", error, what)
        return None
    if metadata["origin"] != origin:
        return None
    notes = json.loads(metadata["progress"])
    state = TrainingState(notes.pop("epochs"), notes.pop("steps"), tensors)
    logger.info("the training of %s goes on after epoch %d", what, state.epochs)
    return state, notes


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
