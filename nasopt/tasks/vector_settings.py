"""Settles how texts become vectors: what the study file says, else the model's own files, else the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from nasopt.config.task import TaskConfig
from nasopt.errors import UnsupportedModelError, choices
from nasopt.models.sentence_modules import SentenceModules
from nasopt.tasks.embeddings import Pooling

POOLINGS = ("mean", "cls")
UNBOUNDED = 1_000_000
"""The length of texts above which a tokenizer's own limit means that it has none."""


def settle(
    config: TaskConfig, modules: SentenceModules, tokenizer: PreTrainedTokenizerBase, positions: int
) -> tuple[TaskConfig, tuple[str, ...]]:
    """`[task]` with pooling, prefix, normalisation and the longest text, as the model's files say where it is silent.

    Args:
        config: the study file's.
        modules: the model's own files.
        tokenizer: the model's.
        positions: the number of tokens that the model can read.

    Returns:
        The settled configuration; and sentences for the user, about what was read from the files, and about the
        settings that contradict them.

    Raises:
        UnsupportedModelError: the model makes its vectors in a way that nasopt does not know.
    """
    similarity, own = config.similarity, _own_settings(modules, tokenizer, positions)
    said = {name: getattr(similarity, name) for name in ("pooling", "prefix", "normalize") if is_said(config, name)}
    pooling = _pooling(config, modules)
    vectors = {
        "pooling": pooling,
        "prefix": said.get("prefix", own.get("prefix", similarity.prefix)),
        "normalize": said.get("normalize", own.get("normalize", similarity.normalize)),
    }
    if vectors["prefix"] and not modules.pools_prompt:
        raise UnsupportedModelError(
            f"model {config.model!r}: its pooling leaves a prompt's tokens out (`include_prompt`), which nasopt does "
            'not; set task.similarity.prefix = ""'
        )
    length = config.max_length
    if "max_length" not in config.model_fields_set:
        length = own.get("max_length", length)
    settled = config.model_copy(update={"similarity": similarity.model_copy(update=vectors), "max_length": length})
    return settled, _remarks(config, settled, modules, own)


def is_said(config: TaskConfig, name: str) -> bool:
    """Whether the study file sets a key of `[task.similarity]`."""
    return name in config.similarity.model_fields_set and getattr(config.similarity, name) is not None


def _own_settings(modules: SentenceModules, tokenizer: PreTrainedTokenizerBase, positions: int) -> dict[str, Any]:
    """What the model's files say, by the names of our settings."""
    length = modules.max_length
    if length is None and modules.is_listed and tokenizer.model_max_length < UNBOUNDED:
        length = tokenizer.model_max_length
    found = {
        "pooling": modules.pooling,
        "prefix": modules.prompt,
        "normalize": modules.normalize,
        "max_length": None if length is None else min(length, positions),
    }
    return {name: value for name, value in found.items() if value is not None}


def _pooling(config: TaskConfig, modules: SentenceModules) -> Pooling:
    said, others = config.similarity.pooling, choices(modules.others)
    if said is not None:
        return said
    if others:
        raise UnsupportedModelError(
            f"model {config.model!r}: its vectors go through {others}, which nasopt does not keep; set "
            "task.similarity.pooling to go on with the vectors without that"
        )
    own = modules.pooling or "mean"
    if own not in POOLINGS:
        raise UnsupportedModelError(
            f"model {config.model!r}: its pooling is {own}; set task.similarity.pooling to one of {choices(POOLINGS)}"
        )
    return "cls" if own == "cls" else "mean"


def _remarks(
    config: TaskConfig, settled: TaskConfig, modules: SentenceModules, own: Mapping[str, Any]
) -> tuple[str, ...]:
    chosen = {**settled.similarity.model_dump(), "max_length": settled.max_length}
    words = {
        "pooling": f"pooling is {chosen['pooling']}",
        "prefix": f"the prefix is {chosen['prefix']!r}" if chosen["prefix"] else "there is no prefix",
        "normalize": "vectors have the length 1" if chosen["normalize"] else "vectors keep their length",
        "max_length": f"texts have at most {chosen['max_length']} tokens",
    }
    read = [
        words[name]
        for name in own
        if not (name == "prefix" and config.is_retrieval)  # both sides have their own
        and not (name in config.model_fields_set if name == "max_length" else is_said(config, name))
    ]
    said = [f"as the model's own files say, {', '.join(read)}"] if read else []
    if config.similarity.pooling is not None and modules.others:
        said.append(f"task.similarity.pooling: vectors are made without the model's {choices(modules.others)}")
    said += [
        f"task.similarity.{name}: {_written(chosen[name])}, though the model's own files say {_written(value)}"
        for name, value in own.items()
        if name != "max_length" and value != chosen[name]
    ]
    if chosen["max_length"] > own.get("max_length", chosen["max_length"]):
        said.append(f"task.max_length: {chosen['max_length']}, though the model's own files say {own['max_length']}")
    if modules.dimension is not None:
        said.append(
            f"the model's own files cut vectors to {modules.dimension} entries, and a study's are whole; "
            "task.similarity.dimensions judges cut ones as well"
        )
    prompts = {name: text for name, text in modules.prompts.items() if text}
    if prompts and not chosen["prefix"] and not config.is_retrieval:
        shown = choices([f"{name} = {text!r}" for name, text in prompts.items()])
        said.append(f"the model has prompts and uses none unless told to; task.similarity.prefix can be one: {shown}")
    return tuple(said)


def _written(value: object) -> str:
    """A value as a study file has it."""
    return json.dumps(value, ensure_ascii=False)


def read_in_lower_case(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, which reads texts in lower case from now on, as sentence-transformers' `do_lower_case` has it."""
    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer is not None else [])]
    backend.normalizer = normalizers.Sequence(steps)
    return tokenizer
