"""Reads how a folder of sentence-transformers turns hidden states into a text's vector."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from nasopt.errors import UnsupportedModelError

MODULES = "modules.json"
FOLDER = re.compile(r"\d+_(\w+)")
"""The name of a module's own folder, for example `1_Pooling`."""
MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
"""Keys of a pooling's configuration, with our words for them."""


@dataclass(frozen=True)
class SentenceModules:
    """The modules after the encoder.

    Attributes:
        pooling: `mean`, `cls`, or the folder's name for another kind; None where there is no pooling.
        others: the folders of modules that nasopt does not know, for example `2_Dense`.
    """

    pooling: str | None = None
    others: tuple[str, ...] = ()


def sentence_modules(source: str, revision: str | None) -> SentenceModules:
    """The modules of a folder, or of a repository on the hub; none where it is not one of sentence-transformers.

    Raises:
        UnsupportedModelError: one of its files is damaged.
    """
    kinds = _kinds(source, revision)
    poolings = [folder for folder, kind in kinds.items() if kind == "Pooling"]
    others = [folder for folder, kind in kinds.items() if kind not in ("Transformer", "Pooling", "Normalize")]
    if not poolings:
        return SentenceModules(None, tuple(others))
    settings = _read(source, revision, f"{poolings[0]}/config.json") or {}
    return SentenceModules(_mode(settings), tuple(others + poolings[1:]))


def _kinds(source: str, revision: str | None) -> Mapping[str, str]:
    """The kind of each module by its folder, in their order."""
    listed = _read(source, revision, MODULES)
    if listed is not None:
        try:
            return {str(item["path"]): str(item["type"]).rpartition(".")[2] for item in listed}
        except (TypeError, KeyError):
            raise UnsupportedModelError(f"model {source!r}: {MODULES} is not a list of modules") from None
    folders = sorted(path.name for path in Path(source).glob("*_*") if path.is_dir()) if Path(source).is_dir() else []
    found = {name: FOLDER.fullmatch(name) for name in folders}
    return {name: match[1] for name, match in found.items() if match is not None}


def _mode(settings: Mapping[str, Any]) -> str | None:
    chosen = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    if not chosen and isinstance(settings.get("pooling_mode"), str):
        return str(settings["pooling_mode"])
    return " and ".join(MODES.get(key, key.removeprefix("pooling_mode_")) for key in chosen) or None


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
