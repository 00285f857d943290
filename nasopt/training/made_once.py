"""Tensors that are made once per study and kept in its artifact folder, keyed by what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from nasopt.errors import CheckpointError
from nasopt.storage.tensors import read_tensors, write_tensors

logger = logging.getLogger("nasopt")


def made_once(
    folder: Path, kind: str, made_from: Iterable[Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors that `make` gives, read from their file if there is a whole one.

    Workers that start together come in turn, so that only the first makes them.

    Args:
        folder: holds such files; made if need be.
        kind: the first part of the file's name.
        made_from: everything that the tensors depend on, JSON; other values lead to another file.
        make: gives tensors of any shape by name.

    Returns:
        The same tensors by name, with the same shapes, on the CPU.
    """
    key = origin_of(made_from)
    folder.mkdir(exist_ok=True)
    file = folder / f"{kind}-{key}.safetensors"
    with FileLock(folder / f".{kind}.lock"):
        if file.is_file():
            try:
                return read_tensors(file)[0]
            except CheckpointError as error:
                logger.warning("%s; it is made again", error)
        write_tensors(file, make())
        return read_tensors(file)[0]


def origin_of(made_from: Iterable[Any]) -> str:
    """A short hash of everything that something depends on, JSON."""
    return hashlib.sha256(json.dumps(list(made_from)).encode()).hexdigest()[:16]
