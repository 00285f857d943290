"""Tensors in a file that knows its own checksum: those that a study makes once, or that a training goes on from.

The file is safetensors. Its metadata hold a SHA-256 of names, sizes and values, so that damage that leaves the
structure whole is seen too. It is written in a folder with a temporary name and renamed (:mod:`nasopt.host.files`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nasopt.errors import CheckpointError
from nasopt.host.files import publish, working_folder
from nasopt.host.object_store import fetch

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "sha256"
"""The key of the checksum in the file's metadata, beside the writer's own."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors, of any shape and on any device, with metadata; a reader sees the old file or the new.

    Args:
        path: its folder exists.
        tensors: by name; those that share storage are written once for each name.
        metadata: read back with them.
    """
    from safetensors.torch import save_file

    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    described = dict(metadata or {})
    with working_folder(path.parent) as folder:
        file = folder / "tensors"
        save_file(owned, file, {**described, CHECKSUM: _checksum(owned, described)})
        publish(file, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata that :func:`write_tensors` was given.

    Raises:
        CheckpointError: the file is not there, or its content is not what was written.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    fetch(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is not there") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: the file is damaged ({error})") from None
    if metadata.pop(CHECKSUM, None) != _checksum(tensors, metadata):
        raise CheckpointError(f"{path}: the file is damaged (its checksum does not match)")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
