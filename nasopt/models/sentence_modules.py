"""Reads and writes the files in which sentence-transformers says how hidden states become a text's vector."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import cached_file

from nasopt.errors import UnsupportedModelError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
ENCODER_SETTINGS = "sentence_bert_config.json"
OLDER_SETTINGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The names that :data:`ENCODER_SETTINGS` has had."""
POOLING = "1_Pooling"
NORMALIZE = "2_Normalize"
CUT = "2_Dense"
"""A matrix that keeps the first entries of a vector."""
NORMALIZE_CUT = "3_Normalize"
PACKAGE = "sentence_transformers."
FOLDER = re.compile(r"\d+_(\w+)")
"""The name of a module's own folder, for example `1_Pooling`."""
MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
"""Keys of a pooling's configuration, with our words for them."""
KNOWN = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceModules:
    """The modules of a sentence encoder, and the way in which it reads texts.

    Attributes:
        pooling: `mean`, `cls`, or the folder's name for another kind; None where there is no pooling.
        others: the modules that nasopt does not know, by their folders, for example `2_Dense`.
        is_listed: whether the folder lists its modules, so that what it does not list is not there.
        normalize: whether vectors are scaled to length 1; None where the files do not say.
        max_length: the number of tokens of the longest text; None where the files do not say.
        lowercases: whether texts are read in lower case, whatever the tokenizer does.
        prompts: texts to be put before others, by name.
        prompt: the one of them that is put before every text, empty for none; None where the files do not say.
        pools_prompt: whether a prompt's tokens are part of the mean.
        dimension: the number of first entries that vectors are cut to; None for whole ones.
    """

    pooling: str | None = None
    others: tuple[str, ...] = ()
    is_listed: bool = False
    normalize: bool | None = None
    max_length: int | None = None
    lowercases: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    pools_prompt: bool = True
    dimension: int | None = None


def sentence_modules(source: str, revision: str | None) -> SentenceModules:
    """What the files of a folder, or of a repository on the hub, say; nothing if they are not sentence-transformers'.

    Raises:
        UnsupportedModelError: one of them is damaged.
    """
    listed = _read(source, revision, MODULES)
    kinds = _listed_kinds(source, listed) if listed is not None else _kinds_of_folders(source)
    poolings = [folder for folder, kind in kinds.items() if kind == "Pooling"]
    others = [folder for folder, kind in kinds.items() if kind not in KNOWN] + poolings[1:]
    found = SentenceModules(others=tuple(others), is_listed=listed is not None)
    if poolings:
        settings = _object(source, revision, f"{poolings[0]}/config.json")
        found = replace(found, pooling=_mode(settings), pools_prompt=settings.get("include_prompt") is not False)
    if "Normalize" in kinds.values() or found.is_listed:
        found = replace(found, normalize="Normalize" in kinds.values())
    return _with_reading(found, source, revision) if found.is_listed else found


def encoder_folder(folder: Path) -> str | None:
    """The name of the sub-folder that holds the encoder, as folders of old have it; None if the folder itself does.

    Raises:
        UnsupportedModelError: the list of modules is damaged.
    """
    if not (folder / MODULES).is_file():
        return None
    kinds = _listed_kinds(str(folder), _read(str(folder), None, MODULES))
    return next((path for path, kind in kinds.items() if kind == "Transformer" and path), None)


def activation_of(config: PretrainedConfig, source: str, revision: str | None) -> str | None:
    """The class that stands after the one output of a `CrossEncoder`, by its dotted name; None where nothing says it.

    Args:
        config: the model's own configuration, where it has stood until sentence-transformers 5.
        source: the folder, or the id on the hub.
        revision: branch, tag or commit on the hub.

    Raises:
        UnsupportedModelError: a file is damaged.
    """
    settings = getattr(config, "sentence_transformers", None)
    older = getattr(config, "sbert_ce_default_activation_function", None)
    found = [settings.get("activation_fn") if isinstance(settings, dict) else None, older]
    found.append(_object(source, revision, SETTINGS).get("activation_fn"))
    return next((str(name) for name in found if name), None)


def sentence_files(modules: SentenceModules, hidden_size: int) -> dict[str, str | bytes]:
    """The files beside an encoder with which `SentenceTransformer(folder)` gives its vectors: their content, by path.

    Every version of sentence-transformers reads them, but not each the `truncate_dim` of whole vectors that are cut.

    Args:
        modules: the way in which texts become vectors; its pooling is `mean` or `cls`.
        hidden_size: the encoder's.
    """
    kinds = {"": "Transformer", POOLING: "Pooling"}
    if modules.normalize and modules.dimension is not None:
        # NOTE: sentence-transformers cuts last of all (`truncate_dim`), and would leave vectors shorter than 1.
        kinds |= {CUT: "Dense", NORMALIZE_CUT: "Normalize"}
    elif modules.normalize:
        kinds |= {NORMALIZE: "Normalize"}
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"{PACKAGE}models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {
        "word_embedding_dimension": hidden_size,
        **{key: mode == modules.pooling for key, mode in MODES.items()},
        "include_prompt": modules.pools_prompt,
    }
    names = [name for name, text in modules.prompts.items() if text and text == modules.prompt]
    settings: dict[str, object] = {
        "model_type": "SentenceTransformer",
        "prompts": dict(modules.prompts),
        "default_prompt_name": names[0] if names else None,
        "similarity_fn_name": "cosine",
    }
    contents: dict[str, object] = {
        MODULES: listed,
        f"{POOLING}/config.json": pooling,
        ENCODER_SETTINGS: {"max_seq_length": modules.max_length, "do_lower_case": False},
        SETTINGS: settings,
    }
    if modules.dimension is not None:
        settings["truncate_dim"] = modules.dimension
    contents |= {f"{path}/config.json": {} for path, kind in kinds.items() if kind == "Normalize"}
    weights: dict[str, bytes] = {}
    if CUT in kinds:
        sizes = {"in_features": hidden_size, "out_features": modules.dimension, "bias": False}
        contents[f"{CUT}/config.json"] = {**sizes, "activation_function": "torch.nn.modules.linear.Identity"}
        weights[f"{CUT}/model.safetensors"] = save({"linear.weight": torch.eye(modules.dimension or 0, hidden_size)})
    texts = {path: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for path, content in contents.items()}
    return {**texts, **weights}


def cut_by_files(folder: Path, vectors: Tensor) -> Tensor:
    """The vectors as the files of a folder cut them, shape (..., dimension); before they are normalised.

    Args:
        folder: written with :func:`sentence_files`.
        vectors: whole ones, shape (..., hidden).
    """
    weights = folder / CUT / "model.safetensors"
    if weights.is_file():
        vectors = vectors @ load_file(weights)["linear.weight"].to(vectors).T
    dimension: int | None = json.loads((folder / SETTINGS).read_text(encoding="utf-8")).get("truncate_dim")
    return vectors[..., :dimension]


def _listed_kinds(source: str, listed: Any) -> Mapping[str, str]:
    """The kind of each module by its folder, in their order; another package's module has its own name for both."""
    try:
        types = {str(item["path"]): str(item["type"]) for item in listed}
    except (TypeError, KeyError):
        raise UnsupportedModelError(f"model {source!r}: {MODULES} is not a list of modules") from None
    own = {path: kind.rpartition(".")[2] for path, kind in types.items() if kind.startswith(PACKAGE)}
    return {path if path in own else kind: own.get(path, kind) for path, kind in types.items()}


def _kinds_of_folders(source: str) -> Mapping[str, str]:
    """The same by the names of folders alone, where no list is."""
    folders = sorted(path.name for path in Path(source).glob("*_*") if path.is_dir()) if Path(source).is_dir() else []
    found = {name: FOLDER.fullmatch(name) for name in folders}
    return {name: match[1] for name, match in found.items() if match is not None}


def _with_reading(modules: SentenceModules, source: str, revision: str | None) -> SentenceModules:
    """The modules with the way in which their encoder reads texts."""
    candidates = (_object(source, revision, name) for name in (ENCODER_SETTINGS, *OLDER_SETTINGS))
    encoder: Mapping[str, Any] = next(filter(None, candidates), {})
    settings = _object(source, revision, SETTINGS)
    length, prompts = encoder.get("max_seq_length"), settings.get("prompts") or {}
    dimension = settings.get("truncate_dim")
    default = settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or (default is not None and default not in prompts):
        raise UnsupportedModelError(f"model {source!r}: {SETTINGS} names prompts that are not there")
    texts = {str(name): str(text or "") for name, text in prompts.items()}
    return replace(
        modules,
        max_length=length if isinstance(length, int) and length > 0 else None,
        lowercases=encoder.get("do_lower_case") is True,
        prompts=texts,
        dimension=dimension if isinstance(dimension, int) and dimension > 0 else None,
        prompt=texts[str(default)] if default is not None else "" if any(texts.values()) else None,
    )


def _mode(settings: Mapping[str, Any]) -> str | None:
    chosen = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    modes = settings.get("pooling_mode")
    if not chosen and isinstance(modes, str):
        return modes
    if not chosen and isinstance(modes, Sequence):
        return " and ".join(map(str, modes))
    return " and ".join(MODES.get(key, key.removeprefix("pooling_mode_")) for key in chosen) or None


def _object(source: str, revision: str | None, name: str) -> Mapping[str, Any]:
    """The content of a file that holds an object; an empty one if it is not there."""
    content = _read(source, revision, name)
    if content is not None and not isinstance(content, dict):
        raise UnsupportedModelError(f"model {source!r}: {name} is damaged (it holds no object)")
    return content or {}


def _read(source: str, revision: str | None, name: str) -> Any:
    """The content of a JSON file; None if it is not there, or the hub cannot be reached."""
    found = cached_file(
        source,
        name,
        revision=revision or "main",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return None
    try:
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError:
        raise UnsupportedModelError(f"model {source!r}: {name} is damaged (it is not JSON)") from None
