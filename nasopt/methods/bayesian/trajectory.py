"""The path of a model's weights while it trains, as a posterior: SWAG (Maddox et al. 2019, algorithm 1).

One safetensors file holds the mean of the weights over the collected steps, their variances, the last K deviations from
the running mean, and the last weights. It is written through a memory map, so that it takes only as much memory as the
system can spare, and (K + 3) copies of the weights on the disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nasopt.errors import CheckpointError
from nasopt.host.files import partial_name
from nasopt.host.object_store import fetch, send
from nasopt.models.posterior import Posterior, Structure, diagonal, low_rank, point

FOLDER = "posterior"
"""The folder of posteriors, below a study's artifact folder."""
COUNT = "collected"
EPOCHS = "epochs_since_base"
SECTIONS = ("mean", "squares", "last", "deviations")


@dataclass(frozen=True)
class Schedule:
    """Decides when the weights are collected, and how many deviations are kept.

    Attributes:
        rank: K, the number of deviations that are kept.
        start: part of the training, from 0 to 1, that goes before the first collection.
        collections: the number of collections, evenly over the rest; fewer where there are not as many steps.
    """

    rank: int = 10
    start: float = 0.5
    collections: int = 40

    def is_due(self, done: int, total: int) -> bool:
        """Whether the weights after `done` of `total` steps are among the collected; the last ones always are."""
        first = math.floor(self.start * total)
        count = min(self.collections, total - first)
        return done > first and (done - first) * count // (total - first) > (done - 1 - first) * count // (
            total - first
        )


class Trajectory:
    """Collects the weights of one model during one training.

    Usage: `train(..., on_step=trajectory.on_step)`, then `trajectory.finish(key)`.

    Args:
        model: a float32 model, whose parameters are all followed, frozen ones too; tied ones once.
        schedule: decides when to collect, and how many deviations to keep.
        folder: the study's artifact folder; the posterior lies below it, under a temporary name until :meth:`finish`.
        epochs: epochs of the training, if it goes on from the finished base model; 0 if it is the base model's own.
    """

    def __init__(self, model: nn.Module, schedule: Schedule, folder: Path, epochs: int = 0) -> None:
        self._model, self._schedule = model, schedule
        self._folder = folder
        self._partial = folder / FOLDER / partial_name()
        self._partial.parent.mkdir(exist_ok=True)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._tensors = _create(self._partial, shapes, schedule.rank, {EPOCHS: str(epochs)})

    def on_step(self, done: int, total: int) -> None:
        """Collects if it is time; the training loop calls it."""
        if self._schedule.is_due(done, total):
            self.collect()

    @torch.no_grad()
    def collect(self) -> None:
        """Adds the weights as they are now, with memory for one more tensor at a time."""
        index = int(self._tensors[COUNT][0])
        for name, parameter in self._model.named_parameters():
            weights = parameter.detach().float().cpu().numpy()
            mean = self._tensors[f"mean.{name}"]
            before = weights - mean
            mean += before / (index + 1)
            deviation = weights - mean
            # Welford's sum of squares: E[w^2] - E[w]^2 would lose the small variances of large weights to rounding.
            self._tensors[f"squares.{name}"] += before * deviation
            self._tensors[f"last.{name}"][...] = weights
            self._tensors[f"deviations.{name}"][index % self._schedule.rank] = deviation
        self._tensors[COUNT][0] = index + 1

    def finish(self, key: str) -> None:
        """Closes the file and gives it its name.

        Args:
            key: checkpoint of the model whose posterior it is.

        Raises:
            ValueError: the weights were not collected at least twice.
        """
        if self._tensors[COUNT][0] < 2:
            raise ValueError(f"the weights were collected {self._tensors[COUNT][0]} times; a posterior takes 2")
        self._tensors.clear()  # unmaps the file
        path = posterior_path(self._folder, key)
        self._partial.replace(path)
        send(path)


def posterior_path(folder: Path, base_key: str) -> Path:
    """The file of a base model's posterior, given the study's artifact folder and the model's checkpoint."""
    return folder / FOLDER / f"{base_key}.safetensors"


def load_posterior(path: Path, structure: Structure) -> Posterior:
    """The posterior that a :class:`Trajectory` collected; its tensors stay on the disk until they are used.

    * `point`: the last weights, u_K.
    * `diagonal`: the mean and the variances of the path.
    * `low_rank`: SWAG: the mean, half the variances, and the last K deviations (fewer if fewer were collected).

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    fetch(path)
    try:
        with safe_open(path, framework="pt") as file:
            return _posterior(file, structure)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def epochs_since_base(path: Path) -> int | None:
    """Epochs for which a copy of the finished base model was trained to collect a posterior.

    Returns:
        0 where it is the path of the base model's own training; None where an older version did not say.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    fetch(path)
    try:
        with safe_open(path, framework="pt") as file:
            epochs = (file.metadata() or {}).get(EPOCHS)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return None if epochs is None else int(epochs)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: the posterior cannot be read ({error}); delete it, and it is made again")


def _posterior(file: Any, structure: Structure) -> Posterior:
    names = file.keys()

    def section(name: str) -> dict[str, Tensor]:
        start = f"{name}."
        return {key.removeprefix(start): file.get_tensor(key) for key in names if key.startswith(start)}

    if structure == "point":
        return point(section("last"))
    count = int(file.get_tensor(COUNT)[0])
    variance = {name: tensor / count for name, tensor in section("squares").items()}
    if structure == "diagonal":
        return diagonal(section("mean"), variance)
    deviations = {name: tensor[:count] for name, tensor in section("deviations").items()}
    return low_rank(section("mean"), {name: tensor / 2 for name, tensor in variance.items()}, deviations)


def _create(
    path: Path, shapes: dict[str, tuple[int, ...]], rank: int, metadata: dict[str, str]
) -> dict[str, NDArray[Any]]:
    """A safetensors file of zeros, and its tensors as writable memory maps.

    The library writes a file at once, from tensors in memory; ours may be larger than the memory. Its format is the
    header's length in 8 bytes, a header in JSON, and then the tensors (https://github.com/huggingface/safetensors).
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, dtype, shape in _layout(shapes, rank):
        start, end = end, end + np.dtype(dtype).itemsize * math.prod(shape)
        header[name] = {"dtype": "I64" if dtype == "<i8" else "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    data = np.memmap(path, np.uint8, "r+", offset=8 + len(text), shape=(end,))
    return {
        name: data[slice(*header[name]["data_offsets"])].view(dtype).reshape(shape)
        for name, dtype, shape in _layout(shapes, rank)
    }


def _layout(shapes: dict[str, tuple[int, ...]], rank: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield COUNT, "<i8", (1,)
    for section in SECTIONS:
        for name, shape in shapes.items():
            yield f"{section}.{name}", "<f4", ((rank, *shape) if section == "deviations" else shape)
