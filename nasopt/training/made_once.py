"""Tensors that are made once per study and kept in its artifact folder, keyed by what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from nasopt.errors import CheckpointError
from nasopt.host.locks import Lock
from nasopt.host.object_store import fetch
from nasopt.storage.tensors import read_tensors, write_tensors

logger = logging.getLogger("nasopt")


def made_once(
    folder: Path, kind: str, made_from: Iterable[Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors that `make` gives, read from their file if there is a whole one.

    Workers that start together, on any machine, come in turn, so that only the first makes them.

    Args:
        folder: holds such files; made if need be.
        kind: the first part of the file's name.
        made_from: everything that the tensors depend on, JSON; other values lead to another file.
        make: gives tensors of any shape by name.

    Returns:
        The same tensors by name, with the same shapes, on the CPU.
    """
    made_from = list(made_from)
    key = origin_of(made_from)
    folder.mkdir(exist_ok=True)
    file = folder / f"{kind}-{key}.safetensors"
    with Lock(folder / f".{kind}.lock") as lock:
        if fetch(file):
            try:
                return read_tensors(file)[0]
            except CheckpointError as error:
                logger.warning("%s; it is made again", error)
        made = make()
        if not lock.is_lost:
            write_tensors(file, made)
            return read_tensors(file)[0]
    return made_once(folder, kind, made_from, make)  # this process stood still, and another makes them now


def origin_of(made_from: Iterable[Any]) -> str:
    """A short hash of everything that something depends on, JSON."""
    return hashlib.sha256(json.dumps(list(made_from)).encode()).hexdigest()[:16]
