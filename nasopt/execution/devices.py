"""The devices of worker processes: a GPU for each, or a share of the CPU's cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, by the names that `CUDA_VISIBLE_DEVICES` gives or would give them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    names = map(str, range(count)) if named is None else map(str.strip, named.split(","))
    return tuple(names)[:count]  # CUDA takes no notice of what stands behind a name that it does not know


def usual_workers() -> int:
    """The number of workers where nobody says how many: one for each GPU, else one."""
    return max(1, len(visible_gpus()))


def start_on(process: BaseProcess, index: int, gpus: Sequence[str]) -> None:
    """Starts a spawned worker that sees one GPU alone, from its first moment; workers spread evenly over the GPUs.

    Args:
        process: the worker's process.
        index: the worker's number.
        gpus: the GPUs, as :func:`visible_gpus` names them; none if there are none.
    """
    if not gpus:
        process.start()
        return
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpus[index % len(gpus)]
    try:
        process.start()
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def threads_of_each(workers: int) -> int:
    """The threads of one of several workers that share the cores of this process, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
