"""What is made once per study and kept in its artifact folder, keyed by what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from nasopt.host.files import partial_name


def made_once(
    folder: Path, kind: str, made_from: Iterable[Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `make` gives, from its file if it has one. Workers that start together make it one after the other.

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
        if not file.is_file():
            partial = folder / partial_name()
            try:
                save_file(make(), partial)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
    found: dict[str, Tensor] = load_file(file)
    return found
