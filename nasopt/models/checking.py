"""Checks that the files of a model belong together: weights, configuration and tokenizer.

transformers draws weights at random that a checkpoint lacks, leaves out those that have no place in the model, and
makes a tokenizer of special tokens alone where a tokenizer has no files. Here each of these is an error that names the
cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import has_file

from nasopt.errors import UnsupportedModelError

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER = "adapter_config.json"
CONVERSION = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "w = torch.load('pytorch_model.bin', weights_only=True); "
    "save_file({n: t.clone().contiguous() for n, t in w.items()}, 'model.safetensors', {'format': 'pt'})\""
)
"""A command that, run in a model's folder, writes its weights as safetensors, shared ones once for each name."""
TOKENIZER_SETTINGS = "tokenizer_config.json"
CASED_SHARE = 0.01
"""The share of words with capital letters above which a vocabulary is one with case."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files that hold a whole tokenizer, of whatever class."""
CONSTANTS = re.compile(r"position_ids|token_type_ids|inv_freq|embed_positions\.weights|word_embeddings\._weight")
"""Ends of names, in old checkpoints, of tensors that the model computes by itself or holds a second time."""


def check_files(source: str, revision: str | None) -> None:
    """Makes sure that a folder, or a repository on the hub, has its weights as safetensors, and all of them there.

    Raises:
        UnsupportedModelError: it has none, pickled ones only, or only those of an adapter for another model.
    """
    check_adapter(source, revision)
    if _has_any(source, revision, SAFETENSORS):
        return
    if _has_any(source, revision, PICKLED):
        raise UnsupportedModelError(
            f"model {source!r}: its weights are pickled ({PICKLED[0]}), and nasopt reads safetensors only; convert "
            f"them in its folder with: {CONVERSION}"
        )
    if Path(source).is_dir():
        raise UnsupportedModelError(f"model {source!r}: holds no weights (there is no {SAFETENSORS[0]})")


def check_adapter(source: str, revision: str | None) -> None:
    """Refuses an adapter of the library peft, alone or beside its model.

    Raises:
        UnsupportedModelError: there is one.
    """
    if _has_any(source, revision, (ADAPTER,)):
        raise UnsupportedModelError(
            f"model {source!r}: has an adapter ({ADAPTER}); merge it into the model with peft's `merge_and_unload()`, "
            "and save that"
        )


def check_report(source: str, model: PreTrainedModel, report: Mapping[str, Any], may_lack: Iterable[str] = ()) -> None:
    """Makes sure that a model got all its weights, and that the whole encoder of the checkpoint found a place.

    Args:
        source: the folder of the checkpoint, or its id on the hub.
        model: the model as loaded.
        report: transformers' `output_loading_info`, with mismatched sizes ignored.
        may_lack: names of weights that may be random, or of another size in the checkpoint.

    Raises:
        UnsupportedModelError: weights are missing, of other sizes or left over; the message counts them and names one.
    """
    allowed = set(may_lack)
    kind = f"a {model.config.model_type} model"
    others = sorted(item for item in report["mismatched_keys"] if item[0] not in allowed)
    if others:
        name, stored, expected = others[0]
        raise UnsupportedModelError(
            f"model {source!r}: its checkpoint is of another model: {len(others)} weights are of other sizes than "
            f"config.json says, {name} among them ({_size(stored)} instead of {_size(expected)})"
        )
    absent = sorted(set(report["missing_keys"]) - allowed)
    if absent:
        raise UnsupportedModelError(
            f"model {source!r}: its checkpoint lacks {len(absent)} of the weights of {kind}, {absent[0]} among them"
        )
    left_over = _without_place(model, report["unexpected_keys"])
    if left_over:
        raise UnsupportedModelError(
            f"model {source!r}: {len(left_over)} weights of its encoder have no place in {kind} of this version of "
            f"transformers and would be left out, {left_over[0]} among them"
        )


def _without_place(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """The weights below the head that were left out; heads for other purposes and poolers do not count."""
    body = getattr(model, model.base_model_prefix, model)
    parts = {name for name, _ in body.named_children()} | {"embeddings", "encoder", "decoder", "layers"}
    prefix = f"{model.base_model_prefix}."
    inside = [name for name in unexpected if name.startswith(prefix) or name.partition(".")[0] in parts]
    return sorted(
        name
        for name in inside
        if not name.removeprefix(prefix).startswith("pooler.")
        and CONSTANTS.search(name) is None
        and not _is_switched_off(model, name)
    )


def _is_switched_off(model: PreTrainedModel, name: str) -> bool:
    """Whether the configuration says that the model does without these weights, as DeBERTa-v3's does of positions."""
    return "position_embeddings" in name and getattr(model.config, "position_biased_input", True) is False


def check_tokenizer_files(source: str, revision: str | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes sure that a tokenizer was read from files: without any, transformers makes one of special tokens alone.

    Raises:
        UnsupportedModelError: there are none; or they have a vocabulary with case, of which nothing says that texts are
            not to be read in lower case, as transformers then does.
    """
    names = {key: name for key, name in tokenizer.vocab_files_names.items() if isinstance(name, str)}
    needed = [names[key] for key in ("vocab_file", "merges_file") if key in names]
    if not names or _has_any(source, revision, TOKENIZERS):
        return
    missing = [name for name in needed if not _has_any(source, revision, (name,))]
    if missing or not needed:
        raise UnsupportedModelError(
            f"model {source!r}: holds no tokenizer (there is no {' and no '.join((*missing, TOKENIZERS[0]))}); save "
            "the model's own tokenizer there"
        )
    is_alone = "vocab.txt" in needed and not _has_any(source, revision, (TOKENIZER_SETTINGS,))
    if is_alone and _lowercases(tokenizer) and _share_with_case(tokenizer) > CASED_SHARE:
        raise UnsupportedModelError(
            f"model {source!r}: its vocab.txt has words with capital letters, and texts would be read in lower case; "
            f'write {TOKENIZER_SETTINGS} with {{"do_lower_case": false}} there (or true, if that is meant)'
        )


def _lowercases(tokenizer: PreTrainedTokenizerBase) -> bool:
    normalizer = tokenizer.backend_tokenizer.normalizer if hasattr(tokenizer, "backend_tokenizer") else None
    return normalizer is not None and bool(normalizer.normalize_str("A") == "a")


def _share_with_case(tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of a vocabulary's words that have capital letters; special tokens such as `[CLS]` do not count."""
    words: list[str] = [word for word in tokenizer.get_vocab() if not word.startswith("[")]
    return sum(word != word.lower() for word in words) / max(len(words), 1)


def check_tokenizer(source: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Makes sure that texts can be tokenised for a model, in batches.

    Args:
        source: the folder of both, or their id on the hub.
        tokenizer: the tokenizer found there.
        rows: see :func:`check_vocabulary`.

    Raises:
        UnsupportedModelError: the tokenizer is a slow one, cannot pad, or is not the model's.
    """
    name = type(tokenizer).__name__
    if not tokenizer.is_fast or not hasattr(tokenizer, "backend_tokenizer"):
        raise UnsupportedModelError(
            f"model {source!r}: its tokenizer ({name}) is a slow one; nasopt needs one of the library `tokenizers` "
            "(tokenizer.json)"
        )
    if tokenizer.pad_token_id is None:
        raise UnsupportedModelError(
            f"model {source!r}: its tokenizer ({name}) has no pad token; set one that the model knows and save it: "
            "`tokenizer.pad_token = ...; tokenizer.save_pretrained(...)`"
        )
    check_vocabulary(source, tokenizer, rows)


def check_vocabulary(source: str, tokenizer: PreTrainedTokenizerBase, rows: int, *, may_be_small: bool = False) -> None:
    """Makes sure that a tokenizer is that of the model.

    Args:
        source: the folder of both, or their id on the hub.
        tokenizer: the tokenizer found there.
        rows: the number of the model's embeddings. Models often have some more than their tokenizers, never fewer.
        may_be_small: a tokenizer trained on few texts has fewer tokens than it was asked for.

    Raises:
        UnsupportedModelError: the tokenizer has more tokens, or fewer than half as many.
    """
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > rows:
        raise UnsupportedModelError(
            f"model {source!r}: its tokenizer has {tokens} tokens, but the model has embeddings of {rows}: were tokens "
            "added to it? Resize the model's embeddings (`resize_token_embeddings`) and save both"
        )
    if 2 * tokens < rows and not may_be_small:
        raise UnsupportedModelError(
            f"model {source!r}: its tokenizer has {tokens} tokens, but the model has embeddings of {rows}: the "
            "tokenizer is not the model's own"
        )


def _has_any(source: str, revision: str | None, names: Iterable[str]) -> bool:
    """Whether one of the files is there; False also where the hub does not answer, because loading fails then."""
    try:
        return any(has_file(source, name, revision=revision or "main") for name in names)
    except OSError:
        return False


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
