"""The device that a study measures on: its name, its driver, and what it can do.

A latency belongs to a model *on a device*: device and threads stand beside every stored value, and a study that is
resumed on another device, or with another number of threads of a CPU, can tell so by the records' `identity`
(:mod:`nasopt.records.latency`).
"""

from __future__ import annotations

import platform
import re
from functools import lru_cache
from pathlib import Path

import torch

from nasopt.errors import DeviceNotFoundError

_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_FAST_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def resolve_device(name: str) -> torch.device:
    """The torch device called `name` in a study file.

    Args:
        name: ``"cpu"`` or ``"cuda"``.

    Raises:
        DeviceNotFoundError: no CUDA GPU is present, or `name` is anything else.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        if not torch.cuda.is_available():
            raise DeviceNotFoundError(
                f"the device `cuda` is not present: torch {torch.__version__} sees no CUDA GPU on this machine; "
                "set `device` under [latency] to `cpu`, or run on a machine with a GPU and a CUDA build of torch"
            )
        # With its index, so that the device keeps its meaning if the current device changes.
        return torch.device("cuda", torch.cuda.current_device())
    raise DeviceNotFoundError(
        f"the device `{name}` cannot be measured on: only the device at hand can; "
        "set `device` under [latency] to `cpu` or `cuda`"
    )


def device_name(device: torch.device) -> str:
    """Model name of the CPU or GPU, as its vendor writes it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_field("model name") or platform.processor() or platform.machine()


def working_device() -> torch.device:
    """The device on which models run whose latency is not measured: the GPU, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def present_gpu() -> str | None:
    """Model name of the current CUDA device; None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def is_device_of(profile: str, gpu: str) -> bool:
    """Whether `gpu`, as its driver calls it (``NVIDIA A100-SXM4-40GB``), is what `profile` (``a100-40gb``) describes:
    every part of the profile's name is one of the GPU's."""
    parts = [set(re.split(r"[^a-z0-9]+", name.lower())) for name in (profile, gpu)]
    return parts[0] <= parts[1]


def driver_version(device: torch.device) -> str:
    """Version of the NVIDIA kernel driver, else of torch's CUDA runtime; empty for a CPU."""
    if device.type != "cuda":
        return ""
    if _NVIDIA_DRIVER.is_file():
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _NVIDIA_DRIVER.read_text())
        if found:
            return found[1]
    return f"CUDA {torch.version.cuda}"


def supports_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware on `device`; elsewhere they are slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not _FAST_BF16_FLAGS.isdisjoint(_cpu_field("flags").split())


@lru_cache
def _cpu_field(field: str) -> str:
    """The first value of `field` in /proc/cpuinfo; empty where the system has no such file or field."""
    if not _CPUINFO.is_file():
        return ""
    for line in _CPUINFO.read_text().splitlines():
        key, separator, value = line.partition(":")
        if separator and key.strip() == field:
            return value.strip()
    return ""
