"""The software that runs exported models on GPUs: the runtimes that predictions know, and what each of them fuses."""

from __future__ import annotations

from dataclasses import dataclass

from nasopt.errors import NasoptError, choices
from nasopt.measurement.predicted.transformer_cost import Fusion

DEFAULT_RUNTIME = "tensorrt"
DEFAULT_PRECISION = "fp16"

_PLUGINS = Fusion(qkv=True, attention=True, epilogue=True, norm_kernels=1)
_FROM_ONNX = Fusion(qkv=True, attention=False, epilogue=True, norm_kernels=1)
_TRANSFORMER_OPTIMISER = Fusion(qkv=True, attention=False, epilogue=False, norm_kernels=1)
_FRAMEWORK = Fusion(qkv=False, attention=False, epilogue=False, norm_kernels=1)


class RuntimeNotKnownError(NasoptError):
    """A runtime, or a precision of it, that predictions know nothing of."""


@dataclass(frozen=True)
class Software:
    """One version of a stack: a factor of its own in the fit.

    Args:
        name: Its name for people, and the key of its constants.
        source: The beginning of the sources of its measurements.
        fusions: The runtimes that it holds.
    """

    name: str
    source: str
    fusions: dict[str, Fusion]


SOFTWARE = (
    # NOTE: NVIDIA's demo builds the network with plugins, among them one kernel for all of attention. The model that
    # Triton served in 2021 was exported to ONNX, and TensorRT 7 did not find attention in it.
    Software("tensorrt-10.16", "TensorRT demo/BERT", {"tensorrt": _PLUGINS}),
    Software(
        "triton-2021",
        "DeepLearningExamples BERT triton",
        {
            "tensorrt": _FROM_ONNX,
            "onnxruntime+tensorrt": _FROM_ONNX,
            "onnxruntime": _TRANSFORMER_OPTIMISER,
            "torchscript": _FRAMEWORK,
        },
    ),
    Software("tensorflow-21.02", "DeepLearningExamples TensorFlow2 BERT", {"tensorflow-xla": _FRAMEWORK}),
)
"""Newest first: a runtime without a source is the first that has it."""


def runtime_names() -> list[str]:
    """Every runtime that a prediction can be made for."""
    return list(dict.fromkeys(runtime for software in SOFTWARE for runtime in software.fusions))


def software_of(runtime: str, source: str = "") -> Software:
    """The software that `source` names, if it has the runtime; else the newest that has it.

    Raises:
        RuntimeNotKnownError: nothing is known of the runtime.
    """
    having = [software for software in SOFTWARE if runtime in software.fusions]
    if not having:
        raise RuntimeNotKnownError(f"no prediction for the runtime {runtime!r}; one of {choices(runtime_names())}")
    return next((software for software in having if source.startswith(software.source)), having[0])
