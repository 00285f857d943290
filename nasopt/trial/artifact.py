"""The artifact of a candidate: the very model that is evaluated, measured and exported.

:mod:`nasopt.architecture.artifacts` says of which kind it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nasopt.architecture.artifacts import ArtifactKind
from nasopt.errors import ExportError
from nasopt.host.files import scratch_folder
from nasopt.methods.base import Quantizer
from nasopt.training.candidate import Candidate

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from nasopt.models.onnx import OnnxModel
    from nasopt.tasks.batches import Examples

CALIBRATION_BATCH = 16
"""Training texts of one pass while the ranges of activations are calibrated."""


def make_artifact(candidate: Candidate, device: torch.device, quantizer: Quantizer | None) -> PreTrainedModel:
    """A copy of the candidate in its precision as torch modules, on `device`, in eval mode.

    Args:
        candidate: fp32.
        device: where it is going to run.
        quantizer: the user's own function; ours if None.

    Raises:
        NasoptError: the model that the user's function gave cannot be stored.
    """
    from nasopt.models.quantization import check_storable, quantize

    precision = candidate.architecture.precision
    if quantizer is None:
        return quantize(candidate.model, precision, device)
    model = quantizer(candidate.model, precision)
    check_storable(model, precision)
    quantized: PreTrainedModel = model.to(device).eval()
    return quantized


def make_onnx(
    candidate: Candidate, kind: ArtifactKind, names: Sequence[str], training: Examples, calibration_texts: int
) -> OnnxModel:
    """The candidate in its precision as an ONNX file, opened on the CPU. Made again, it is the same byte for byte.

    Args:
        candidate: fp32.
        kind: says how weights are stored.
        names: the inputs that its tokenizer gives; the file takes those of them that the model takes.
        training: the training split, tokenised for the candidate.
        calibration_texts: the number of its texts on which the ranges of activations are calibrated, where they are.

    Raises:
        ExportError: the candidate is too large for one file, or torch cannot convert it.
    """
    from nasopt.models.example_inputs import input_names
    from nasopt.models.onnx import LARGEST_MB, OnnxModel, convert
    from nasopt.models.onnx_quantization import quantize_dynamic, quantize_static, to_half

    model = copy.deepcopy(candidate.model).cpu().eval().requires_grad_(False)
    megabytes = sum(parameter.nbytes for parameter in model.parameters()) / 1e6
    if megabytes > LARGEST_MB:
        raise ExportError(f"its {megabytes:.0f} MB do not fit one ONNX file; choose the runtime eager")
    inputs = input_names(model, names)
    with scratch_folder() as folder:
        file = folder / "float.onnx"
        convert(model, inputs, file)
        if candidate.architecture.precision == "fp32":
            return OnnxModel(file)
        quantized = folder / "quantized.onnx"
        if candidate.architecture.precision == "fp16":
            to_half(file, quantized)
        elif kind.storage == "dynamic":
            quantize_dynamic(file, quantized)
        else:
            batches = calibration_batches(training, inputs, calibration_texts)
            quantize_static(file, quantized, batches, symmetric=kind.storage == "symmetric")
        return OnnxModel(quantized)


def size_mb(artifact: PreTrainedModel | OnnxModel) -> float:
    """The artifact's size as it is stored, in MB (10^6 bytes): of the file, or of the tensors.

    Torch modules must not have run: the first pass of an nf4 model repacks its weights in place.
    """
    from nasopt.measurement.measured.memory import memory_mb
    from nasopt.models.onnx import OnnxModel
    from nasopt.models.quantization import stored_tensors

    if isinstance(artifact, OnnxModel):
        return artifact.megabytes
    return memory_mb(stored_tensors(artifact))


def calibration_batches(training: Examples, names: Sequence[str], count: int) -> list[Mapping[str, Tensor]]:
    """A sample of that many training texts as inputs of a file, each of shape (batch, tokens); always the same ones in
    the same order."""
    from nasopt.training.samples import SampleSettings

    texts = training.sides[0]
    return [
        {name: tensor for name, tensor in texts.batch(positions).inputs.items() if name in names}
        for positions in SampleSettings(count, CALIBRATION_BATCH, seed=0).batches(texts)
    ]
