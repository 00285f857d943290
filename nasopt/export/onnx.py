"""Writes models as ONNX files, and verifies each in ONNX Runtime before it is there.

A folder holds `model.onnx` with batch and length left open, the tokenizer, a model card, `nasopt.json` (versions, and
what each layer keeps) and the base model's configuration with the labels, which is for readers of labels and tokenizers
and cannot say the sizes of single layers. A model of a class of ours has its own configuration, and the modelling file
with which that is read.

A study whose runtime is ONNX Runtime or TensorRT has such a file as the artifact of each trial, which is written as it
is (:mod:`nasopt.architecture.artifacts`). Any other trial's model is converted:

======  ============================================================================================================
fp32    as it is
fp16    as it is; where ONNX Runtime has no fp16 kernel (most of them on CPUs) it computes in fp32 in between
bf16    written as fp32: ONNX Runtime's CPU provider does not implement bf16
int8,   refused: the exporter cannot convert bitsandbytes' modules
int4
======  ============================================================================================================
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import CandidateArchitecture, Precision
from nasopt.errors import ExportError
from nasopt.export.folder import (
    ONNX,
    check_outputs,
    export_config,
    export_record,
    new_folder,
    write_around,
)
from nasopt.measurement.measured.memory import memory_mb
from nasopt.models.example_inputs import input_names, named_batch
from nasopt.models.families import OWN_CLASSES
from nasopt.models.onnx import LARGEST_MB, PACKAGES, SHAPES, OnnxModel, check_packages, convert, tolerance
from nasopt.models.outputs import main_output
from nasopt.models.quantization import quantization_settings, stored_dtype, stored_tensors

BF16_NOTE = (
    "The weights are those of the bf16 model, written in fp32 because ONNX Runtime does not compute in bf16 on CPUs: "
    "the file is twice as large as the model was, and has a speed of its own."
)

logger = logging.getLogger("nasopt")


def check_convertible(precision: Precision) -> None:
    """Refuses a model that cannot become an ONNX file, before any work.

    Raises:
        ExportError: the precision is int8 or int4.
        MissingExtraError: a package of the extra `onnx` is missing.
    """
    if precision in ("int8", "int4"):
        raise ExportError(
            f"a model in {precision} cannot be written as ONNX: bitsandbytes' layers have no counterpart there; "
            "export it with --format hf, or choose a trial in fp32, bf16 or fp16"
        )
    check_packages(PACKAGES)


def export_onnx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    architecture: CandidateArchitecture,
    to: Path,
    *,
    card: str | Callable[[Path], str],
    force: bool = False,
    artifact: OnnxModel | None = None,
) -> Path:
    """Writes a model as `model.onnx` with its tokenizer, verifies it in ONNX Runtime, and puts it in place.

    The file takes those of the tokenizer's model inputs that the model uses, under their names (int64, batch x tokens),
    and gives `logits` (batch x outputs), or what :func:`nasopt.models.onnx.convert` says. The model itself is not
    changed; it is compared on the CPU.

    Args:
        model: the artifact itself, in its precision; see the table of this module.
        tokenizer: the model's own.
        architecture: the parts that the model keeps of the base model, and its precision; it is recorded in
            `nasopt.json`.
        to: the folder, as for :func:`nasopt.export.export_hf`.
        card: the text of README.md; or a function that makes it from the verified file, so that it can say how fast
            that is.
        force: whether the folder may hold something already.
        artifact: the file to write, where the trial's artifact is one; `model` is then the candidate in fp32.

    Returns:
        The folder.

    Raises:
        ExportError: the precision is int8 or int4, the model is too large for one file or cannot be converted, the
            folder is not empty or cannot be written, or ONNX Runtime gives other outputs; then nothing is left behind.
        MissingExtraError: a package of the extra `onnx` is missing.
    """
    to = Path(to).absolute()
    if artifact is None:
        check_convertible("int8" if quantization_settings(model) else architecture.precision)
    convertible = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    was_bf16 = stored_dtype(model) == torch.bfloat16
    if was_bf16:
        logger.warning("bf16 is written as fp32: ONNX Runtime does not compute in bf16 on CPUs; the file is larger")
        convertible, architecture = convertible.float(), architecture.with_precision("fp32")
    size = memory_mb(stored_tensors(convertible))
    if size > LARGEST_MB:
        raise ExportError(f"{to}: not exported, because its {size:.0f} MB do not fit one ONNX file; use --format hf")
    with new_folder(to, force) as partial:
        file = partial / ONNX
        names = input_names(convertible, tokenizer.model_input_names)
        if artifact is None:
            _convert(convertible, names, file, to)
        else:
            file.write_bytes(artifact.content)
        expected = convertible if artifact is None else artifact
        _verify(file, expected, convertible, names, architecture.precision, to)
        text = card if isinstance(card, str) else card(file)
        text += f"\n{BF16_NOTE}\n" if was_bf16 else ""
        record = export_record(convertible, architecture) | {name: version(name) for name in PACKAGES}
        write_around(partial, _config(convertible), tokenizer, text, record)
    return to


def _config(model: PreTrainedModel) -> PretrainedConfig:
    if model.config.model_type in OWN_CLASSES:
        return export_config(model)
    config: PretrainedConfig = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = stored_dtype(model)
    return config


def _convert(model: PreTrainedModel, names: list[str], file: Path, to: Path) -> None:
    """Writes the file.

    Raises:
        ExportError: torch's exporter cannot convert the model.
    """
    try:
        convert(model, names, file)
    except ExportError as error:
        raise ExportError(f"{to}: not exported, because {error}") from error


def _verify(
    file: Path, model: nn.Module, torch_model: PreTrainedModel, names: list[str], precision: str, to: Path
) -> None:
    """Compares the file's outputs in ONNX Runtime with those of `model`, at several batch sizes and lengths.

    Args:
        file: the file as it was written.
        model: the model that was converted, or the ONNX file that was copied, which gives the same outputs exactly.
        torch_model: says which inputs there may be.
        names: the file's inputs.
        precision: the precision, for the message.
        to: the folder, for the message.

    Raises:
        ExportError: ONNX Runtime cannot run it, or the outputs differ or are not finite.
    """
    try:
        session = OnnxModel(file)
    except Exception as error:  # ONNX Runtime's own types have no other base class
        raise ExportError(f"{to}: not exported, because ONNX Runtime cannot read the file: {_line(error)}") from error
    for batch_size, tokens in SHAPES:
        inputs = named_batch(torch_model, names, batch_size, tokens)
        with torch.inference_mode():
            expected = main_output(model(**inputs))
        try:
            found = main_output(session(**inputs)).float()
        except Exception as error:
            raise ExportError(
                f"{to}: not exported, because ONNX Runtime cannot run the file on {batch_size} texts of {tokens} "
                f"tokens: {_line(error)}"
            ) from error
        allowed = 0.0 if isinstance(model, OnnxModel) else tolerance(expected)
        check_outputs(to, expected.float(), found, allowed, precision)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
