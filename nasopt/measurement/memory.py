"""Memory of a model's weights as they are stored for inference."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

BYTES_PER_MB = 1e6


def memory_mb(tensors: Mapping[str, Tensor]) -> float:
    """Size of `tensors` in MB (10^6 bytes), each shared one counted once.

    Args:
        tensors: Name to tensor, as they are written to the exported weights. Tied weights are two names with the same
            memory; a view counts with the bytes it shows, not with those of the storage it was cut from.

    Raises:
        ValueError: a tensor without data (device ``meta``), whose sharing cannot be told.
    """
    sizes: dict[tuple[str, int, int], int] = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"`tensors` must hold data, but {name!r} is on the device `meta`")
        size = tensor.numel() * tensor.element_size()
        sizes[str(tensor.device), tensor.data_ptr(), size] = size
    return sum(sizes.values()) / BYTES_PER_MB
