"""Writes model folders that `from_pretrained` reads, and verifies each before it is there.

What a standard configuration can express (layers removed, one FFN width for all layers, bitsandbytes' quantisation)
loads with plain transformers. Anything else brings the modelling file of its class along (:mod:`modeling_nasopt
<nasopt.models.modeling_nasopt>`, :mod:`modeling_adabert <nasopt.models.modeling_adabert>`, or another package's: see
:mod:`nasopt.models.registration`), one file that stands alone: it loads where that package is installed, and elsewhere
with `trust_remote_code=True`.
"""

from __future__ import annotations

import copy
import inspect
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import CandidateArchitecture
from nasopt.errors import ExportError, NasoptError
from nasopt.host.files import follow_umask, remove_abandoned, working_folder
from nasopt.models import loading, modeling_nasopt
from nasopt.models.example_inputs import fixed_batch
from nasopt.models.families import OWN_CLASSES, encoder_shape, family_of
from nasopt.models.onnx import FP32_TOLERANCE
from nasopt.models.outputs import main_output
from nasopt.models.quantization import quantization_settings, stored_dtype, stored_tensors
from nasopt.models.registration import auto_classes
from nasopt.models.sentence_modules import MODULES, SETTINGS, cut_by_files
from nasopt.models.surgery import layer_counts
from nasopt.version import __version__

RECORD = "nasopt.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
CODE = {f"{encoder.__module__.rpartition('.')[2]}.py" for encoder, *_ in OWN_CLASSES.values()}
"""Names of the modelling files that a folder may bring along."""


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
    architecture: CandidateArchitecture,
    to: Path,
    *,
    card: str,
    force: bool = False,
    beside: Mapping[str, str | bytes] | None = None,
    dimension: int | None = None,
) -> Path:
    """Writes a model with its tokenizer, verifies that it reads back the same, and puts it in place.

    Args:
        model: the artifact itself, in its precision, before its first forward pass (see :func:`stored_tensors`).
        tokenizer: the model's own.
        architecture: what the model keeps of the base model (or its cells), and precision; it is recorded in
            `nasopt.json`.
        to: the folder. Files of an existing one are overwritten by name, others stay.
        card: the text of README.md.
        force: whether the folder may hold something already.
        beside: further files, by their path in the folder: their content.
        dimension: the number of first entries that those files cut vectors to; None for whole ones.

    Returns:
        The folder.

    Raises:
        ExportError: the folder is not empty or cannot be written, or the model read back gives other outputs; then
            nothing is left behind.
    """
    to = Path(to).absolute()
    with new_folder(to, force) as partial:
        config = export_config(model)
        tensors: dict[str, Tensor] = {name: tensor.cpu() for name, tensor in stored_tensors(model).items()}
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        write_around(partial, config, tokenizer, card, export_record(model, architecture))
        for path, content in (beside or {}).items():
            (partial / path).parent.mkdir(exist_ok=True)
            (partial / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        if model.can_generate():
            model.generation_config.save_pretrained(partial)
        _verify(partial, model, architecture, to, dimension)
    return to


@contextmanager
def new_folder(to: Path, force: bool) -> Iterator[Path]:
    """A hidden folder beside `to` that takes its place when the block has ended, or is gone if it failed.

    Files of an existing `to` are overwritten by name. Others stay, but not a model that an earlier export left: the
    configuration would no longer be its own.

    Args:
        to: absolute path.
        force: whether `to` may hold something already.

    Raises:
        ExportError: see :func:`check_target`; or something could not be written, in the block too.
    """
    check_target(to, force)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(to.parent)
        with working_folder(to.parent) as partial:
            yield partial
            written = {file.relative_to(partial): file for file in partial.rglob("*") if file.is_file()}
            for file in written.values():
                follow_umask(file)
            if not to.exists():
                partial.rename(to)
                return
            for path, file in written.items():
                (to / path).parent.mkdir(exist_ok=True)
                file.replace(to / path)
            for name in {WEIGHTS, ONNX, MODULES, SETTINGS, *CODE}.difference(map(str, written)):
                (to / name).unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"{to}: cannot be written ({error.strerror or error})") from error


def write_around(
    folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, card: str, record: dict[str, Any]
) -> None:
    """Writes the files beside the weights: configuration, with the modelling file that it names, tokenizer, model
    card and `nasopt.json`.

    Raises:
        ExportError: the tokenizer cannot be written, or would be written elsewhere.
    """
    config.save_pretrained(folder)
    if hasattr(config, "auto_map"):
        code = inspect.getfile(type(config))
        shutil.copyfile(code, folder / Path(code).name)
    try:
        tokenizer.save_pretrained(folder)
    except ValueError as error:  # for example a chat template whose name would lead out of the folder
        raise ExportError(f"the model's tokenizer cannot be written: {error}") from error
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def export_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration from which `from_pretrained` builds a model of these sizes and this quantisation."""
    config = _own_config(model) if model.config.model_type in OWN_CLASSES else _encoder_config(model)
    config.dtype = stored_dtype(model)
    settings = quantization_settings(model)
    if settings:
        config.quantization_config = settings
    return config


def _own_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration of a model that transformers lacks, which names the modelling file beside it."""
    config: PretrainedConfig = copy.deepcopy(model.config)
    return _with_code(config, type(model).__name__)


def _with_code(config: PretrainedConfig, own_class: str) -> PretrainedConfig:
    module = Path(inspect.getfile(type(config))).stem
    config.architectures = [own_class]
    models = auto_classes(OWN_CLASSES[config.model_type])
    config.auto_map = {
        "AutoConfig": f"{module}.{type(config).__name__}",
        **{name: f"{module}.{model.__name__}" for name, model in models.items()},
    }
    return config


def _encoder_config(model: PreTrainedModel) -> PretrainedConfig:
    """The standard configuration of a cut encoder where that can express its sizes, else one of ours."""
    shape, family = encoder_shape(model.config), family_of(model)
    heads, neurons = layer_counts(model)
    if set(heads) != {shape.num_heads} or len(set(neurons)) > 1 or not neurons[0] or family.own_values(model):
        return _irregular_config(model, heads, neurons)
    config: PretrainedConfig = copy.deepcopy(model.config)
    setattr(config, family.ffn_key, neurons[0])
    config.architectures = [type(model).__name__]
    return config


def _irregular_config(model: PreTrainedModel, heads: list[int], neurons: list[int]) -> PretrainedConfig:
    config_class = modeling_nasopt.CONFIGS[modeling_nasopt.MODEL_TYPE_PREFIX + model.config.model_type]
    own_class = f"Nasopt{type(model).__name__}"
    if own_class not in [known.__name__ for known in modeling_nasopt.MODELS[config_class]]:
        raise ExportError(f"a {type(model).__name__} whose layers differ in size cannot be exported yet")
    values = {key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "architectures")}
    values |= family_of(model).own_values(model)
    return _with_code(config_class(layer_heads=heads, layer_ffn=neurons, **values), own_class)


def export_record(model: PreTrainedModel, architecture: CandidateArchitecture) -> dict[str, Any]:
    """The content of `nasopt.json`: the architecture, and the versions of the software that made the folder."""
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


def _verify(
    folder: Path, model: PreTrainedModel, architecture: CandidateArchitecture, to: Path, dimension: int | None
) -> None:
    """Reads the folder and compares outputs, as cut, on a fixed batch: within 1e-4 in fp32, else equal.

    Raises:
        ExportError: they differ, or are not finite.
    """
    try:
        loaded, _ = loading.load(folder, model.device)
    except NasoptError as error:
        raise ExportError(f"{to}: the exported model cannot be read back: {error}") from error
    inputs = fixed_batch(model)
    model.eval()
    with torch.inference_mode():
        expected, found = (main_output(its(**inputs)).float() for its in (model, loaded))
    if dimension is not None:
        expected, found = expected[..., :dimension].cpu(), cut_by_files(folder, found.cpu())
    allowed = FP32_TOLERANCE if architecture.precision == "fp32" else 0.0
    check_outputs(to, expected, found, allowed, architecture.precision)


def check_outputs(to: Path, expected: Tensor, found: Tensor, allowed: float, precision: str) -> None:
    """Compares the outputs of a model, shape (batch, ...), with those of the model that was written.

    Raises:
        ExportError: they differ by more than `allowed`, or are not finite.
    """
    if not bool(torch.isfinite(expected).all()):
        raise ExportError(f"{to}: not exported, because the model's outputs are not finite")
    difference = float((expected - found).abs().max())
    if not difference <= allowed:
        raise ExportError(
            f"{to}: not exported, because the model read back gives outputs that differ by {difference:.2g} "
            f"({allowed:.2g} is allowed in {precision})"
        )
