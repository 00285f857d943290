"""What is made once per study and kept in its artifact folder, keyed by what it was made from."""

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
    """What `make` gives, from its file if there is a whole one. Workers that start together make it in turn.

    Args:
        folder: of such files; made if need be.
        kind: what it is, in the name of the file.
        made_from: everything that it depends on, JSON; another one is another file.
        make: gives tensors by name.
    """
    key = hashlib.sha256(json.dumps(list(made_from)).encode()).hexdigest()[:16]
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
