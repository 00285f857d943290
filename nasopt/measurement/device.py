"""The device that a study measures on: finding it, naming it, and what belongs to its identity.

A latency is a property of a model *on a device*: the environment stands beside every stored value, and a study that is
resumed on another device, or with another number of threads of a CPU, can tell so by :func:`device_identity`.
"""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from nasopt.errors import DeviceNotFoundError

Source: TypeAlias = Literal["measured", "predicted"]

_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_FAST_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class Environment:
    """Where and how a latency was obtained; stored with every value.

    Args:
        device: Model name of the CPU or GPU.
        driver: Version of the GPU's driver, empty for a CPU.
        torch_version: Version of torch, with its build (``2.13.0+cpu``).
        dtype: Precision of the candidate (``fp32``, ``int8`` ...), as the genotype names it.
        threads: Number of threads of one operation on the CPU.
        runtime: What ran the model.
        batch_size: Sequences in one batch.
        sequence_length: Tokens in each sequence.
        source: Whether the value was measured on the device or predicted for it.
    """

    device: str
    driver: str
    torch_version: str
    dtype: str
    threads: int
    batch_size: int
    sequence_length: int
    source: Source = "measured"
    runtime: str = "eager"

    @classmethod
    def of(
        cls,
        device: torch.device,
        *,
        dtype: str,
        threads: int,
        batch_size: int,
        sequence_length: int,
        runtime: str = "eager",
    ) -> Environment:
        """The environment of a measurement on `device` in this process."""
        return cls(
            device=device_name(device),
            driver=driver_version(device),
            torch_version=str(torch.__version__),
            dtype=dtype,
            threads=threads,
            batch_size=batch_size,
            sequence_length=sequence_length,
            runtime=runtime,
        )

    def to_dict(self) -> dict[str, str | int]:
        """The fields as JSON values."""
        return asdict(self)


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


def device_identity(name: str, threads: int, is_gpu: bool = False) -> str:
    """The device as one string, a CPU with its `threads`; equal strings mean comparable latencies."""
    return name if is_gpu else f"{name}, {threads} thread{'s' if threads != 1 else ''}"


def working_device() -> torch.device:
    """Where models run whose latency is not measured: the GPU, if there is one."""
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
