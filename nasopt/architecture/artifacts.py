"""The artifact of a trial, decided by the runtime that its latency is of and its precision: one table, in one place.

A trial has one artifact: its quality is evaluated, its memory weighed, its latency taken and its folder written of it.
What the table does not hold has no artifact and is refused when a study is created. docs/latency.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nasopt.architecture.base import PRECISIONS, Precision

Form: TypeAlias = Literal["torch", "onnx"]
Storage: TypeAlias = Literal["float", "bitsandbytes", "dynamic", "static"]


@dataclass(frozen=True)
class ArtifactKind:
    """The kind of artifact that a trial has.

    Attributes:
        form: torch modules, or one ONNX file, which ONNX Runtime evaluates.
        storage: how its weights are stored: in the precision's float type; by bitsandbytes; in int8 with activations
            quantised as they come (dynamic); or in int8 with Q/DQ nodes, whose ranges are calibrated on training texts
            (static).
        device: the only device that runs it fast, `cpu` or `cuda`; None for both.
    """

    form: Form
    storage: Storage
    device: Literal["cpu", "cuda"] | None = None


_TORCH: Mapping[Precision, ArtifactKind] = {
    precision: ArtifactKind("torch", "bitsandbytes" if precision in ("int8", "int4") else "float")
    for precision in PRECISIONS
}
ARTIFACTS: Mapping[str, Mapping[Precision, ArtifactKind]] = {
    "eager": _TORCH,
    "compile": _TORCH,
    "onnxruntime": {
        "fp32": ArtifactKind("onnx", "float"),
        "fp16": ArtifactKind("onnx", "float", "cuda"),
        "int8": ArtifactKind("onnx", "dynamic", "cpu"),
    },
    "tensorrt": {
        "fp32": ArtifactKind("onnx", "float"),
        "fp16": ArtifactKind("onnx", "float"),
        "int8": ArtifactKind("onnx", "static"),
    },
}
"""By runtime and precision."""


def precisions_of(runtime: str, device: str) -> tuple[Precision, ...]:
    """The precisions that have an artifact.

    Args:
        runtime: the runtime of the latency.
        device: `cpu`, or anything else for a GPU.
    """
    kind_of_device = "cpu" if device == "cpu" else "cuda"
    return tuple(name for name, kind in ARTIFACTS[runtime].items() if kind.device in (None, kind_of_device))
