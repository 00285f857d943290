"""Writes models as ONNX files, and verifies each in ONNX Runtime before it is there.

A folder holds `model.onnx` with batch and length left open, the tokenizer, a model card, `nasopt.json` (versions, and
what each layer keeps) and the base model's configuration with the labels, which is for readers of labels and tokenizers
and cannot say the sizes of single layers. A model of a class of ours has its own configuration, and the modelling file
with which that is read.

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
import inspect
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import CandidateArchitecture, Precision
from nasopt.errors import ExportError
from nasopt.export.folder import (
    FP32_TOLERANCE,
    ONNX,
    check_outputs,
    export_config,
    export_record,
    fixed_batch,
    new_folder,
    write_around,
)
from nasopt.measurement.measured.memory import memory_mb
from nasopt.models.families import OWN_CLASSES
from nasopt.models.onnx import PACKAGES, OnnxModel, check_packages, convert
from nasopt.models.quantization import quantization_settings, stored_dtype, stored_tensors

FP16_TOLERANCE = 2e-2
"""Largest allowed difference in fp16, as part of the largest output (or of 1, if that is more): torch rounds after
every operation, ONNX Runtime on a CPU after few."""
SHAPES = ((1, 1), (1, 7), (4, 16), (16, 5), (3, 200))
"""Batch sizes and lengths at which a file is verified; 200 is beyond ModernBERT's local attention."""
LARGEST_MB = 1500
"""Weights beyond this would go into a second file: one ONNX file holds 2 GiB, and torch's exporter keeps a distance."""
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
) -> Path:
    """Writes a model as `model.onnx` with its tokenizer, verifies it in ONNX Runtime, and puts it in place.

    The file takes the tokenizer's model inputs under their names (int64, batch x tokens) and gives `logits`
    (batch x outputs). The model itself is not changed; it is compared on the CPU.

    Args:
        model: the artifact itself, in its precision; see the table of this module.
        tokenizer: the model's own.
        architecture: the parts that the model keeps of the base model, and its precision; it is recorded in
            `nasopt.json`.
        to: the folder, as for :func:`nasopt.export.export_hf`.
        card: the text of README.md; or a function that makes it from the verified file, so that it can say how fast
            that is.
        force: whether the folder may hold something already.

    Returns:
        The folder.

    Raises:
        ExportError: the precision is int8 or int4, the model is too large for one file or cannot be converted, the
            folder is not empty or cannot be written, or ONNX Runtime gives other outputs; then nothing is left behind.
        MissingExtraError: a package of the extra `onnx` is missing.
    """
    to = Path(to).absolute()
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
        names = input_names(convertible, tokenizer)
        _convert(convertible, names, file, to)
        _verify(file, convertible, names, architecture.precision, to)
        text = card if isinstance(card, str) else card(file)
        text += f"\n{BF16_NOTE}\n" if was_bf16 else ""
        record = export_record(convertible, architecture) | {name: version(name) for name in PACKAGES}
        write_around(partial, _config(convertible), tokenizer, text, record)
    return to


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The inputs that tokenizer and model share: DistilBERT takes no segments whatever its tokenizer gives."""
    taken = inspect.signature(model.forward).parameters
    return [name for name in tokenizer.model_input_names if name in taken]


def _config(model: PreTrainedModel) -> PretrainedConfig:
    if model.config.model_type in OWN_CLASSES:
        return export_config(model)
    config: PretrainedConfig = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = stored_dtype(model)
    return config


def _batch(model: PreTrainedModel, names: list[str], batch_size: int, tokens: int) -> dict[str, Tensor]:
    """The fixed batch of these sizes, with segments (the second half of a text is the second one) if they are taken."""
    inputs = fixed_batch(model, batch_size, tokens)
    if "token_type_ids" in names and getattr(model.config, "type_vocab_size", 0) > 1:
        segments = torch.zeros_like(inputs["input_ids"])
        segments[:, segments.shape[1] // 2 :] = 1
        inputs["token_type_ids"] = segments
    elif "token_type_ids" in names:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return {name: inputs[name] for name in names}


def _convert(model: PreTrainedModel, names: list[str], file: Path, to: Path) -> None:
    """Writes the file.

    Raises:
        ExportError: torch's exporter cannot convert the model.
    """
    try:
        convert(model, _batch(model, names, 4, 16), file)
    except ExportError as error:
        raise ExportError(f"{to}: not exported, because {error}") from error


def _verify(file: Path, model: PreTrainedModel, names: list[str], precision: str, to: Path) -> None:
    """Compares the file's outputs in ONNX Runtime with the model's, at several batch sizes and lengths.

    Raises:
        ExportError: ONNX Runtime cannot run it, or the outputs differ or are not finite.
    """
    try:
        session = OnnxModel(file)
    except Exception as error:  # ONNX Runtime's own types have no other base class
        raise ExportError(f"{to}: not exported, because ONNX Runtime cannot read the file: {_line(error)}") from error
    for batch_size, tokens in SHAPES:
        inputs = _batch(model, names, batch_size, tokens)
        with torch.inference_mode():
            expected = model(**inputs)[0].float()
        try:
            found = session(**inputs)[0].float()
        except Exception as error:
            raise ExportError(
                f"{to}: not exported, because ONNX Runtime cannot run the file on {batch_size} texts of {tokens} "
                f"tokens: {_line(error)}"
            ) from error
        largest = max(1.0, float(expected.abs().max()))
        check_outputs(
            to, expected, found, FP16_TOLERANCE * largest if precision == "fp16" else FP32_TOLERANCE, precision
        )


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
