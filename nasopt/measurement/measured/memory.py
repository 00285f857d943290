"""Memory of a model: the size of its weights as they are stored for inference, and the peak while it runs."""

from __future__ import annotations

import ctypes
import re
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from nasopt.host.collection import no_collection

BYTES_PER_MB = 1e6
PASSES = 3
"""The largest number of passes whose growth of memory is looked at."""
PASSES_S = 2.0
"""Seconds after which no further pass begins."""


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


def peak_memory_mb(model: nn.Module, inputs: Mapping[str, Tensor], weights_mb: float, device: torch.device) -> float:
    """Memory of a model while it runs, in MB: its weights, and by how much memory grows in one forward pass at most.

    The growth is the median of three passes, or of fewer if they take long. On CUDA it is that of torch's allocator; on
    a CPU that of the process's resident memory (:func:`_resident_growth`). Weights are counted by their size, because
    those of other models are in the process, too.

    Args:
        model: in eval mode, on `device`, as torch runs it; it has run before.
        inputs: keyword arguments of the model, on `device`.
        weights_mb: the size of its weights, from :func:`memory_mb`.
        device: where it runs.
    """
    growth_of = _allocated_growth if device.type == "cuda" else _resident_growth

    def run() -> None:
        model(**inputs)

    growths: list[int] = []
    start = time.monotonic()
    with no_collection(), torch.inference_mode():
        while len(growths) < PASSES and (not growths or time.monotonic() - start < PASSES_S):
            growths.append(growth_of(run, device))
    return weights_mb + statistics.median(growths) / BYTES_PER_MB


def _allocated_growth(run: Callable[[], None], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def _resident_growth(run: Callable[[], None], device: torch.device) -> int:
    """Bytes by which the process's resident memory grows at most.

    Memory that earlier work freed stays with the process and would be used again, unseen: it is given back to the
    system first, where the C library can (glibc).
    """
    process = psutil.Process()
    _return_freed_memory()
    before = int(process.memory_info().rss)
    if _reset_high_water():
        run()
        return max(0, _high_water() - before)
    with _Sampler(process) as sampler:
        run()
    return max(0, sampler.peak - before)


class _Sampler(threading.Thread):
    """Looks at the process's resident memory every 0.5 ms and keeps the highest value; meant for systems without a
    high-water mark that can be set back."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process, self._over = process, threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._over.wait(0.0005):
            self.peak = max(self.peak, int(self._process.memory_info().rss))

    def __enter__(self) -> _Sampler:
        self.peak = int(self._process.memory_info().rss)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.peak = max(self.peak, int(self._process.memory_info().rss))


def _reset_high_water() -> bool:
    """Sets Linux's mark of the highest resident memory to what it is now; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water() > 0
    except (OSError, ValueError):
        return False


def _high_water() -> int:
    """Linux's mark of the highest resident memory, in bytes.

    Raises:
        ValueError: this system's kernel does not tell.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("no VmHWM in /proc/self/status")
    return int(found[1]) * 1024


def _return_freed_memory() -> None:
    """Gives whole pages of freed memory back to the system, with glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
