"""The artifact of a trial, decided by the runtime that its latency is of and its precision: one table, in one place.

A trial has one artifact: its quality is evaluated, its memory weighed, its latency taken and its folder written of it.
What the table does not hold has no artifact and is refused, with the reason, when a study is created. docs/latency.md
shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nasopt.architecture.base import Precision

Form: TypeAlias = Literal["torch", "onnx"]
Storage: TypeAlias = Literal["float", "bitsandbytes", "dynamic", "static", "symmetric"]


@dataclass(frozen=True)
class ArtifactKind:
    """The kind of artifact that a trial has.

    Attributes:
        form: torch modules, or one ONNX file, which ONNX Runtime evaluates.
        storage: how its weights are stored: in the precision's float type; by bitsandbytes; in int8 with activations
            quantised as they come (dynamic); or in int8 with Q/DQ nodes, whose ranges are calibrated on training texts
            (static), and lie evenly around 0 where TensorRT reads them (symmetric).
        device: the only device that runs it fast, `cpu` or `cuda`; None for both.
    """

    form: Form
    storage: Storage
    device: Literal["cpu", "cuda"] | None = None

    @property
    def words(self) -> str:
        """The kind in a few words, for messages."""
        return f"{'torch modules' if self.form == 'torch' else 'an ONNX file'}, {_STORED[self.storage]}"


_STORED: Mapping[Storage, str] = {
    "float": "not quantised",
    "bitsandbytes": "quantised by bitsandbytes",
    "dynamic": "quantised dynamically",
    "static": "quantised with calibrated ranges",
    "symmetric": "quantised with calibrated symmetric ranges",
}
_TORCH: Mapping[Precision, ArtifactKind] = {
    "fp32": ArtifactKind("torch", "float"),
    "bf16": ArtifactKind("torch", "float"),
    "fp16": ArtifactKind("torch", "float"),
    "int8": ArtifactKind("torch", "bitsandbytes"),
    "int4": ArtifactKind("torch", "bitsandbytes"),
}
TORCH_PRECISIONS: tuple[Precision, ...] = tuple(_TORCH)
"""The precisions in which torch modules are stored, on every device."""
ARTIFACTS: Mapping[str, Mapping[Precision, ArtifactKind]] = {
    "eager": _TORCH,
    "compile": _TORCH,
    "onnxruntime": {
        "fp32": ArtifactKind("onnx", "float"),
        "fp16": ArtifactKind("onnx", "float", "cuda"),
        "int8": ArtifactKind("onnx", "dynamic", "cpu"),
        "int8-static": ArtifactKind("onnx", "static", "cpu"),
    },
    "tensorrt": {
        "fp32": ArtifactKind("onnx", "float"),
        "fp16": ArtifactKind("onnx", "float"),
        "int8": ArtifactKind("onnx", "symmetric"),
    },
}
"""By runtime and precision."""

_NO_BITSANDBYTES = "an ONNX file cannot hold the layers of bitsandbytes"
_TORCH_REFUSES: Mapping[Precision, str] = {"int8-static": "it is an ONNX file, for the runtime onnxruntime"}
_REFUSES: Mapping[str, Mapping[Precision, str]] = {
    "eager": _TORCH_REFUSES,
    "compile": _TORCH_REFUSES,
    "onnxruntime": {"bf16": "ONNX Runtime lacks kernels in bf16", "int4": _NO_BITSANDBYTES},
    "tensorrt": {
        "bf16": "its quality could not be evaluated, as ONNX Runtime lacks kernels in bf16",
        "int8-static": "TensorRT's int8 is calibrated already, and called int8",
        "int4": _NO_BITSANDBYTES,
    },
}
_ON_OTHER_DEVICES: Mapping[str, str] = {
    "cpu": "ONNX Runtime has no such kernels on GPUs",
    "cuda": "ONNX Runtime computes in fp32 on CPUs",
}


def precisions_of(runtime: str, device: str) -> tuple[Precision, ...]:
    """The precisions that have an artifact.

    Args:
        runtime: the runtime of the latency.
        device: `cpu`, or anything else for a GPU.
    """
    return tuple(name for name in ARTIFACTS[runtime] if refusal(runtime, device, name) is None)


def refusal(runtime: str, device: str, precision: Precision) -> str | None:
    """The reason why a precision has no artifact, in a few words; None if it has one.

    Args:
        runtime: the runtime of the latency.
        device: `cpu`, or anything else for a GPU.
        precision: any precision.
    """
    kind = ARTIFACTS[runtime].get(precision)
    if kind is None:
        return _REFUSES[runtime][precision]
    if kind.device not in (None, "cpu" if device == "cpu" else "cuda"):
        return _ON_OTHER_DEVICES[kind.device]
    return None
