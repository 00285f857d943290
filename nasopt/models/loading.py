"""Reads models from folders and from the hub, always in a known dtype, and runs no code that was not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, errors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nasopt.errors import ExportError, NasoptError, UnsupportedModelError
from nasopt.models.checking import check_adapter, check_files, check_report, check_tokenizer_files, check_vocabulary
from nasopt.models.families import OWN_CLASSES, encoder_family_of, family_of
from nasopt.models.quantization import bitsandbytes
from nasopt.models.registration import HEADS, auto_name
from nasopt.models.sentence_modules import encoder_folder

HEAD_SUFFIX, TOKEN_HEAD_SUFFIX, ANSWER_HEAD_SUFFIX = HEADS


def load(path: str | Path, device: torch.device | str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a folder that nasopt exported, or any other of an encoder that it can cut.

    No code of the folder is run, and weights are read from safetensors only. To save an int8 or int4 model of a
    standard type again, transformers 5 needs `model.save_pretrained(..., save_original_format=False)`.

    Args:
        path: the folder.
        device: the device to put the model on; None for the CPU.

    Returns:
        The model, in eval mode and in the dtype it was stored in, and its tokenizer.

    Raises:
        ExportError: there is no such folder, it holds no model, or its weights are not those of its configuration.
        UnsupportedModelError: the model is not of a type that nasopt knows, or the tokenizer is not the model's.

    Example:
        >>> import nasopt
        >>> import torch
        >>> model, tokenizer = nasopt.load("small-model")
        >>> with torch.no_grad():
        ...     logits = model(**tokenizer(["what a film", "what a bore"], padding=True, return_tensors="pt")).logits
        >>> logits.shape
        torch.Size([2, 2])
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ExportError(f"{folder}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder}: holds no model (there is no config.json)")
    config = load_config(str(folder), None, False)
    if config.model_type not in OWN_CLASSES:
        family_of(config)
    target = torch.device(device or "cpu")
    options: dict[str, Any] = {}
    if getattr(config, "quantization_config", None) is not None:
        bitsandbytes()
        options["device_map"] = {"": target}
    auto = _auto_class(config)
    with _quiet(), _explained(str(folder), ExportError):
        check_files(str(folder), None)
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype="auto",
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
        pooler = [name for name in report["missing_keys"] if name.startswith("pooler.")]
        check_report(str(folder), model, report, may_lack=pooler)
    if pooler:
        model.pooler = None  # such an encoder's vectors are pooled otherwise, so a random pooler is of no use
    model = model.to(target) if not options else model
    tokenizer = load_tokenizer(str(folder), None, False)
    check_vocabulary(str(folder), tokenizer, config.vocab_size, may_be_small=config.is_encoder_decoder)
    return model.eval(), tokenizer


def _auto_class(config: PretrainedConfig) -> Any:
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    return auto_class(head_of(config) or "")


def auto_class(model: str) -> Any:
    """The Auto class for the head that the name of a class of models, or the end of it, says."""
    return getattr(transformers, auto_name(model))


def head_of(config: PretrainedConfig) -> str | None:
    """The class of a checkpoint's model by its name, if it has a head for classification or for answers; else None."""
    return next((name for name in config.architectures or () if name.endswith(HEADS)), None)


def load_config(source: str, revision: str | None, trust_remote_code: bool) -> PretrainedConfig:
    """The configuration of a model in a folder, or with an id on the hub.

    Raises:
        UnsupportedModelError: there is none, or it cannot be read without running the model's own code.
    """
    _check_source(source)
    with _quiet(), _explained(source):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            source, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    pruned = [layer for layer, heads in (getattr(config, "pruned_heads", None) or {}).items() if heads]
    if pruned:
        raise UnsupportedModelError(
            f"model {source!r}: heads of {len(pruned)} of its layers were cut by an earlier transformers "
            "(`pruned_heads` in its config.json), which this one cannot load; start from the model before that"
        )
    return config


def load_tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        UnsupportedModelError: there is none.
    """
    _check_source(source)
    with _quiet(), _explained(source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    check_tokenizer_files(source, revision, tokenizer)
    return tokenizer


def has_head(config: PretrainedConfig, suffix: str = HEAD_SUFFIX) -> bool:
    """Whether a checkpoint has a head: for sequence classification, or that of another `suffix` of class names."""
    return any(name.endswith(suffix) for name in config.architectures or ())


@dataclass(frozen=True)
class Head:
    """A head for classification, of texts or of tokens, or for answers, as in Hugging Face's configurations.

    Attributes:
        labels: its labels in the order of their ids.
        problem_type: the kind of a head for classes of texts; others have none.
        suffix: the end of the names of the classes that have it.
    """

    labels: tuple[str, ...]
    problem_type: str | None = None
    suffix: str = HEAD_SUFFIX


def outside_config(source: str, revision: str | None) -> PretrainedConfig:
    """The configuration of an encoder that was made elsewhere, of whatever type: it is compared with, and never cut.

    Raises:
        UnsupportedModelError: there is none, it has a decoder, or its weights are quantised.
    """
    config = load_config(source, revision, False)
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"model {source!r}: it is of the type {config.model_type!r}, which has a decoder; this needs an encoder"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            f"model {source!r}: its weights are quantised, and models from outside are compared in fp32; take the "
            "model before that"
        )
    return config


def load_base(
    source: str,
    head: Head,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    new_head: bool = False,
    any_type: bool = False,
) -> PreTrainedModel:
    """A model to start from, in fp32 whatever its checkpoint is in, with a head for classification.

    Args:
        source: a folder, or an id on the hub.
        head: the head that the model is to have.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether code that comes with the model may run.
        new_head: whether to start with a random head (drawn from torch's generator) even if the checkpoint has one.
        any_type: whether the encoder need not be one that can be cut.

    Raises:
        UnsupportedModelError: the model does not exist, is no encoder that can be cut, or lacks weights or has others.
    """
    config = _config_with(head, source, revision, trust_remote_code, any_type=any_type)
    check_files(source, revision)
    with _quiet(), _explained(source):
        model, report = auto_class(head.suffix).from_pretrained(
            source,
            config=config,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_report(source, model, report, may_lack=_head_names(model) if new_head else ())
    if new_head:
        _draw_head(model)
    return _named(model)


def load_headless(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False, any_type: bool = False
) -> PreTrainedModel:
    """An encoder without a head, or an encoder-decoder with the one that generates, in fp32.

    `any_type` is as in :func:`load_base`.

    Raises:
        UnsupportedModelError: the model does not exist, cannot be cut, or lacks weights or has others.
    """
    config = load_config(source, revision, trust_remote_code)
    if not any_type:
        family_of(config)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    check_files(source, revision)
    with _quiet(), _explained(source):
        model, report = auto.from_pretrained(
            source,
            config=config,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_report(source, model, report, may_lack=[name for name in model.state_dict() if name.startswith("pooler.")])
    loaded: PreTrainedModel = model
    return loaded


def blank_headless(source: str, revision: str | None, trust_remote_code: bool) -> PreTrainedModel:
    """The modules of :func:`load_headless`'s model on the device `meta`, which have sizes but no weights.

    Raises:
        UnsupportedModelError: the model does not exist, or cannot be cut.
    """
    config = load_config(source, revision, trust_remote_code)
    family_of(config)
    return blank_model(config, source, trust_remote_code)


def blank_model(config: PretrainedConfig, source: str = "", trust_remote_code: bool = False) -> PreTrainedModel:
    """The modules that a configuration describes, on the device `meta`, without a head for classification."""
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    with _quiet(), _explained(source), torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, trust_remote_code=trust_remote_code)
    return model


def blank_base(source: str, head: Head, revision: str | None, trust_remote_code: bool) -> PreTrainedModel:
    """The modules of :func:`load_base`'s model on the device `meta`, which have sizes but no weights.

    Raises:
        UnsupportedModelError: the model does not exist, or is no encoder that can be cut.
    """
    config = _config_with(head, source, revision, trust_remote_code)
    with _quiet(), _explained(source), torch.device("meta"):
        model: PreTrainedModel = auto_class(head.suffix).from_config(config, trust_remote_code=trust_remote_code)
    return _named(model)


def _config_with(
    head: Head, source: str, revision: str | None, trust_remote_code: bool, *, any_type: bool = False
) -> PretrainedConfig:
    config = load_config(source, revision, trust_remote_code)
    if not any_type:
        encoder_family_of(config)
    config.num_labels = len(head.labels)
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: index for index, label in enumerate(head.labels)}
    config.problem_type = head.problem_type
    return config


def _named(model: PreTrainedModel) -> PreTrainedModel:
    """The model, whose configuration says which head it has: transformers leaves there what the checkpoint had."""
    model.config.architectures = [type(model).__name__]
    return model


def _head_names(model: PreTrainedModel) -> list[str]:
    """The names of the weights of the head and of the pooler below it, which may be random if the head is new."""
    encoder = f"{model.base_model_prefix}."
    return [name for name in model.state_dict() if not name.startswith(encoder) or name.startswith(f"{encoder}pooler.")]


def _draw_head(model: PreTrainedModel) -> None:
    """Draws all weights above the encoder anew."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            for parameter in module.parameters():
                # transformers marks weights that came from the checkpoint, and would leave them as they are.
                parameter._is_hf_initialized = False
            for part in module.modules():
                model._init_weights(part)


def _check_source(source: str) -> None:
    """Refuses a path that does not exist, which would else be reported as an unknown id on the hub."""
    looks_like_path = source.startswith((".", "~", "/")) or source.count("/") > 1 or "\\" in source
    if looks_like_path and not Path(source).is_dir():
        raise UnsupportedModelError(f"model {source!r}: there is no such folder")
    if not Path(source).is_dir():
        return
    check_adapter(source, None)  # which has no configuration of a model
    if (inside := encoder_folder(Path(source))) is not None:
        raise UnsupportedModelError(
            f"model {source!r}: its encoder lies in {inside}, as sentence-transformers had it once; save it anew: "
            f"`SentenceTransformer({source!r}).save_pretrained(...)`"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from drawing progress bars and from reporting the head, which is missing on purpose."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(source: str, error_type: type[Exception] = UnsupportedModelError) -> Iterator[None]:
    """Turns the errors of transformers and of the hub's client into one line."""
    try:
        yield
    except UnsupportedModelError as error:
        raise error_type(str(error)) from error
    except (NasoptError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers and safetensors have errors of no other base class
        raise error_type(f"model {source!r}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(item, errors.RevisionNotFoundError) for item in chain):
        return "the hub has no such revision of it"
    if any(isinstance(item, errors.RepositoryNotFoundError) for item in chain):
        return "the hub has no such model (a private one needs a login), and there is no such folder"
    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)
    if any(isinstance(item, unreachable) for item in chain) or "couldn't connect" in str(error):
        return (
            f"there is no such folder, and {constants.ENDPOINT} cannot be reached to fetch it; "
            "check the name and the connection"
        )
    if "trust_remote_code" in str(error):
        return "it needs its own code to run; set trust_remote_code = true if you trust it"
    if "invalid literal for int()" in str(error):
        return f"a key of id2label in its config.json is no number ({error})"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
