"""Writes model folders that `from_pretrained` reads, and verifies each before it is there.

What a standard configuration can express (layers removed, one FFN width for all layers, bitsandbytes' quantisation)
loads with plain transformers. Anything else brings :mod:`nasopt.models.modeling_nasopt` along, one file that stands
alone: it loads where nasopt is installed, and elsewhere with `trust_remote_code=True`.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.errors import ExportError, NasoptError
from nasopt.models import loading, modeling_nasopt
from nasopt.models.architecture import Architecture
from nasopt.models.families import encoder_shape, family_of
from nasopt.models.quantization import quantization_settings, stored_dtype, stored_tensors
from nasopt.models.surgery import layer_counts
from nasopt.version import __version__

RECORD = "nasopt.json"
CODE = "modeling_nasopt.py"
FP32_TOLERANCE = 1e-4


def check_target(to: Path, force: bool) -> None:
    """Refuses a place that cannot become a model folder.

    Raises:
        ExportError: it is a file, or a folder that holds something while `force` is not set.
    """
    if to.exists() and not to.is_dir():
        raise ExportError(f"{to}: is a file, not a folder")
    if to.is_dir() and any(to.iterdir()) and not force:
        raise ExportError(f"{to}: the folder is not empty; choose another one, or --force to overwrite")


def export_hf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    architecture: Architecture,
    to: Path,
    *,
    card: str,
    force: bool = False,
) -> Path:
    """Writes a model with its tokenizer, verifies that it reads back the same, and puts it in place.

    Args:
        model: the artifact itself, in its precision, before its first forward pass (see :func:`stored_tensors`).
        tokenizer: the base model's.
        architecture: what the model keeps of the base model, and its precision; recorded in `nasopt.json`.
        to: the folder. Files of an existing one are overwritten by name, others stay.
        card: text of README.md.
        force: whether the folder may hold something already.

    Returns:
        The folder.

    Raises:
        ExportError: the folder is not empty or cannot be written, or the model read back gives other outputs; then
            nothing is left behind.
    """
    to = Path(to).absolute()
    check_target(to, force)
    partial = to.parent / f".{to.name}.{uuid.uuid4().hex[:8]}"
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        _write(partial, model, tokenizer, architecture, card)
        _verify(partial, model, architecture, to)
        if to.exists():
            for file in partial.iterdir():
                file.replace(to / file.name)
        else:
            partial.rename(to)
    except OSError as error:
        raise ExportError(f"{to}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def export_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration from which `from_pretrained` builds a model of these sizes and this quantisation."""
    shape, family = encoder_shape(model.config), family_of(model)
    heads, neurons = layer_counts(model)
    same_sizes = set(heads) == {shape.num_heads} and len(set(neurons)) == 1 and neurons[0]
    if same_sizes and not family.own_values(model):
        config: PretrainedConfig = copy.deepcopy(model.config)
        setattr(config, family.ffn_key, neurons[0])
        config.architectures = [type(model).__name__]
    else:
        config = _own_config(model, heads, neurons)
    config.dtype = stored_dtype(model)
    settings = quantization_settings(model)
    if settings:
        config.quantization_config = settings
    return config


def _own_config(model: PreTrainedModel, heads: list[int], neurons: list[int]) -> PretrainedConfig:
    config_class = modeling_nasopt.CONFIGS[modeling_nasopt.MODEL_TYPE_PREFIX + model.config.model_type]
    encoder, classifier = modeling_nasopt.MODELS[config_class]
    own_class = f"Nasopt{type(model).__name__}"
    if own_class not in (encoder.__name__, classifier.__name__):
        raise ExportError(f"a {type(model).__name__} whose layers differ in size cannot be exported yet")
    values = {key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "architectures")}
    values |= family_of(model).own_values(model)
    config: PretrainedConfig = config_class(layer_heads=heads, layer_ffn=neurons, **values)
    module = Path(CODE).stem
    config.architectures = [own_class]
    config.auto_map = {
        "AutoConfig": f"{module}.{config_class.__name__}",
        "AutoModel": f"{module}.{encoder.__name__}",
        "AutoModelForSequenceClassification": f"{module}.{classifier.__name__}",
    }
    return config


def _write(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: Architecture, card: str
) -> None:
    config = export_config(model)
    config.save_pretrained(folder)
    tensors: dict[str, Tensor] = {name: tensor.cpu() for name, tensor in stored_tensors(model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    if hasattr(config, "auto_map"):
        shutil.copyfile(modeling_nasopt.__file__, folder / CODE)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(_record(model, architecture), indent=2) + "\n", encoding="utf-8")


def _record(model: PreTrainedModel, architecture: Architecture) -> dict[str, Any]:
    record: dict[str, Any] = {
        "nasopt": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "precision": architecture.precision,
        "architecture": json.loads(architecture.to_json()),
    }
    if quantization_settings(model):
        record["bitsandbytes"] = version("bitsandbytes")
    return record


def _verify(folder: Path, model: PreTrainedModel, architecture: Architecture, to: Path) -> None:
    """Reads the folder and compares outputs on a fixed batch: within 1e-4 in fp32, else equal.

    Raises:
        ExportError: they differ, or are not finite.
    """
    try:
        loaded, _ = loading.load(folder, model.device)
    except NasoptError as error:
        raise ExportError(f"{to}: the exported model cannot be read back: {error}") from error
    inputs = _fixed_batch(model)
    model.eval()
    with torch.inference_mode():
        expected, found = model(**inputs)[0].float(), loaded(**inputs)[0].float()
    if not bool(torch.isfinite(expected).all()):
        raise ExportError(f"{to}: not exported, for the model's outputs are not finite")
    difference = float((expected - found).abs().max())
    allowed = FP32_TOLERANCE if architecture.precision == "fp32" else 0.0
    if not difference <= allowed:
        raise ExportError(
            f"{to}: not exported, for the model read back gives outputs that differ by {difference:.2g} "
            f"({allowed:.2g} is allowed in {architecture.precision})"
        )


def _fixed_batch(model: PreTrainedModel) -> dict[str, Tensor]:
    """Four texts of 16 random tokens, two of them padded."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (4, min(16, config.max_position_embeddings - 4)), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, ids.shape[1] // 2 :] = 0
    mask[3, 1:] = 0
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
