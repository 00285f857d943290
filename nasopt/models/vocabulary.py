"""Drops tokens that are not needed from a tokenizer and from the embeddings, so that nothing else changes.

For multilingual models most weights are the embeddings of other languages: a cut from LaBSE to its English and Russian
tokens made it about four times smaller at no loss (METHODS.md, section 4). Kept tokens are renumbered in their order.
On the texts that the kept tokens were taken from, the cut tokenizer gives the same token strings as before:

* WordPiece takes the longest piece that fits. The pieces that it took are kept, so they are still the longest.
* BPE applies the merge of the lowest rank. All merges that lead to a kept token are kept, those that were applied among
  them; no other merge is added that could come before them.
* Unigram takes the best path. That path is kept, and others only go. (The token of the least score is kept too, because
  unknown characters cost ten more than that.)
"""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import CandidateArchitecture
from nasopt.errors import UnsupportedModelError, choices
from nasopt.models.families import FAMILIES
from nasopt.models.loading import load_tokenizer

SCRIPT_SHARE = 0.001
"""A script is in use if at least this share of a text collection's letters belongs to it, so that a list of languages,
each named in its own script, does not bring in all scripts."""
COMMON_SIGNS = ((0x21, 0x7F), (0xA0, 0xC0), (0x2000, 0x2070), (0x20A0, 0x20D0), (0x2100, 0x2150))
"""Code points of signs that every script uses: ASCII, Latin-1, general punctuation, currencies, letterlike symbols."""

Document = dict[str, Any]
"""The content of a fast tokenizer's `tokenizer.json`."""


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> tuple[int, ...]:
    """The part of a vocabulary that some texts need.

    These are the tokens that occur in the texts, special and added tokens, single characters (at the start of a word
    and inside it) of the scripts in use in the texts, common signs and digits, bytes, and the tokens that merges need.

    Args:
        tokenizer: a fast one: WordPiece, BPE (of characters or bytes), Unigram or WordLevel.
        texts: the texts as the model is to read them, prefixes included.

    Returns:
        The ids of the tokens, ascending.

    Raises:
        UnsupportedModelError: the tokenizer is of another kind.
    """
    texts = list(texts)
    document = _document(tokenizer)
    kind = document["model"]["type"]
    backend = Tokenizer.from_str(json.dumps(document))
    backend.no_truncation()
    backend.no_padding()
    unknown = _unknown_id(document)
    kept = {*tokenizer.all_special_ids, *(item["id"] for item in document["added_tokens"])}
    vocabulary = _vocabulary(document)
    for start in range(0, len(texts), 1000):
        some = texts[start : start + 1000]
        for text, encoding in zip(some, backend.encode_batch(some, add_special_tokens=False), strict=True):
            ids = set(encoding.ids)
            kept |= ids
            if kind == "WordPiece" and unknown in ids:
                kept |= _pieces_before_unknown(backend, document["model"], text)
    scripts = scripts_in_use(texts)
    character = _single_character(document)
    for token, index in vocabulary.items():
        single = character(token)
        if single is not None and (single == "" or _belongs(single, scripts)):
            kept.add(index)
    if kind == "BPE":
        _add_merge_parts(document["model"], vocabulary, kept)
    if kind == "Unigram":
        scores = [score for _, score in document["model"]["vocab"]]
        kept.add(scores.index(min(scores)))
    if unknown is not None:
        kept.add(unknown)
    return tuple(sorted(kept))


def cut_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """A tokenizer with some of the tokens: id `kept[i]` becomes i. The given one is not changed.

    Args:
        tokenizer: a fast one.
        kept: the ids to keep, ascending, special and added tokens among them; see :func:`vocabulary_of`.

    Raises:
        UnsupportedModelError: the tokenizer is of a kind that cannot be cut, or would number its tokens otherwise.
        ValueError: the ids are not ascending, or special or added tokens are not kept.
    """
    document = _document(tokenizer)
    new_ids = {old: new for new, old in enumerate(kept)}
    needed = {*tokenizer.all_special_ids, *(item["id"] for item in document["added_tokens"])}
    if not needed <= set(new_ids) or list(new_ids) != sorted(new_ids):
        raise ValueError("`kept` must be ascending and keep all special and added tokens")
    _renumber(document, new_ids)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name not in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                file.unlink()  # the vocabulary in the formats of slow tokenizers
        (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        smaller = load_tokenizer(str(folder), None, False)
    smaller.name_or_path = tokenizer.name_or_path
    before, after = tokenizer.convert_ids_to_tokens(list(kept)), smaller.convert_ids_to_tokens(list(range(len(kept))))
    if before != after or len(smaller) != len(kept):
        raise UnsupportedModelError(
            f"the tokenizer ({type(tokenizer).__name__}) numbers its tokens in a way that is lost when some are cut"
        )
    return smaller


def tokenizer_of(tokenizer: PreTrainedTokenizerBase, architecture: CandidateArchitecture) -> PreTrainedTokenizerBase:
    """A candidate's own tokenizer: the base model's, with the tokens that the candidate keeps."""
    kept = getattr(architecture, "vocabulary", None)
    return tokenizer if kept is None else cut_tokenizer(tokenizer, kept)


def cut_embeddings(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Drops, in place, rows of the embeddings (tied or not), and of all other tensors with a part for each token.

    Token ids in the configuration are updated; those of tokens that are gone become None.

    Args:
        model: an encoder, with or without a head, or an encoder-decoder with one vocabulary.
        kept: the ids to keep, ascending, in the model's present numbering.

    Raises:
        UnsupportedModelError: the model counts positions from its padding token's number, which would change.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    _check_positions(model.config, new_ids)
    index = torch.tensor(kept, dtype=torch.long, device=model.device)
    places = vocabulary_dimensions(model)
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    smaller: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for name, dimension in places.items():
            tensor = tensors[name]
            if id(tensor) not in smaller:  # one that several modules share is cut once, for all of them
                rows = tensor.data.index_select(dimension, index)
                # NOTE: a new parameter is made because autograd may still hold the old one's shape.
                is_parameter = isinstance(tensor, nn.Parameter)
                smaller[id(tensor)] = nn.Parameter(rows, tensor.requires_grad) if is_parameter else rows
            owner, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(owner), own_name, smaller[id(tensor)])
    changed = {id(tensor) for tensor in smaller.values()}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and id(module.weight) in changed:
            module.num_embeddings = len(kept)
            if module.padding_idx is not None:
                module.padding_idx = new_ids.get(module.padding_idx)
        elif isinstance(module, nn.Linear) and id(module.weight) in changed:
            module.out_features = len(kept)
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            _renumber_config(config, new_ids)
    model.config.vocab_size = len(kept)


def vocabulary_dimensions(model: PreTrainedModel) -> dict[str, int]:
    """The names of the model's tensors with a part for each token, and the dimension that counts tokens.

    These are the input embeddings and whatever shares their weights, the output embeddings and their bias, and the
    bias of the logits that encoder-decoders keep in a buffer.
    """
    output = model.get_output_embeddings()
    weights = [model.get_input_embeddings().weight]
    if output is not None:
        weights += [output.weight, *([] if getattr(output, "bias", None) is None else [output.bias])]
    wanted = {id(weight) for weight in weights}
    places = {name: 0 for name, item in model.named_parameters(remove_duplicate=False) if id(item) in wanted}
    size = weights[0].shape[0]
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name.endswith("final_logits_bias") and buffer.shape[-1] == size:
            places[name] = buffer.ndim - 1
    return places


def scripts_in_use(texts: Iterable[str]) -> set[str]:
    """The scripts of at least :data:`SCRIPT_SHARE` of the letters, by the first word of a letter's name in Unicode."""
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    letters: Counter[str] = Counter()
    for character, count in characters.items():
        if (script := _script(character)) is not None:
            letters[script] += count
    return {script for script, count in letters.items() if count >= SCRIPT_SHARE * letters.total()}


def _script(character: str) -> str | None:
    """The script of a character, ``CYRILLIC``, ``LATIN``, ...; None if it is neither a letter nor a mark."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    return unicodedata.name(character, "").partition(" ")[0] or None


def _belongs(character: str, scripts: set[str]) -> bool:
    if any(first <= ord(character) < end for first, end in COMMON_SIGNS):
        return True
    return _script(character) in scripts


def _document(tokenizer: PreTrainedTokenizerBase) -> Document:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModelError(f"a {type(tokenizer).__name__} is no fast tokenizer: its vocabulary cannot be cut")
    document: Document = json.loads(backend.to_str())
    kinds = ("WordPiece", "BPE", "Unigram", "WordLevel")
    if document["model"]["type"] not in kinds:
        raise UnsupportedModelError(
            f"a tokenizer of the kind {document['model']['type']} cannot be cut; those that can: {choices(kinds)}"
        )
    return document


def _vocabulary(document: Document) -> dict[str, int]:
    """The ids by token, without tokens that were added to the model's own."""
    vocabulary = document["model"]["vocab"]
    return vocabulary if isinstance(vocabulary, dict) else {token: i for i, (token, _) in enumerate(vocabulary)}


def _unknown_id(document: Document) -> int | None:
    model = document["model"]
    if model["type"] == "Unigram":
        unknown: int | None = model["unk_id"]
        return unknown
    return _vocabulary(document).get(model.get("unk_token") or "")


def _single_character(document: Document) -> Callable[[str], str | None]:
    """A function from a token to its one character, without the marks of a word's start, inside or end.

    It gives None for longer tokens, and the empty string for those that are always kept: a byte, or a mark by itself.
    """
    model = document["model"]
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    text = json.dumps([document["pre_tokenizer"], document["decoder"], document["normalizer"]])
    of_bytes = '"ByteLevel"' in text
    alphabet = _byte_alphabet() if of_bytes else {}
    start = "\u0120" if of_bytes else "\u2581"

    def single(token: str) -> str | None:
        if of_bytes and len(token) == 1 and token in alphabet:
            return ""
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return ""
        rest = token.removeprefix(prefix) if prefix else token
        rest = rest.removesuffix(suffix) if suffix else rest
        rest = rest.removeprefix(start)
        if of_bytes:
            try:
                rest = bytes(alphabet[letter] for letter in rest).decode("utf-8")
            except (KeyError, UnicodeDecodeError):
                return None
        return rest if len(rest) <= 1 else None

    return single


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level BPE (Radford et al. 2019, GPT-2's encoder)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _pieces_before_unknown(backend: Tokenizer, model: Document, text: str) -> set[int]:
    """The pieces that WordPiece takes before it fails on a word.

    Without them it would take others, and might not fail.
    """
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer is not None else [(text, (0, 0))]
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]
    found: set[int] = set()
    for word, _ in words:
        if len(word) > model["max_input_chars_per_word"]:
            continue
        start = 0
        while start < len(word):
            mark = prefix if start else ""
            ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary)
            end = next(ends, None)
            if end is None:
                break
            found.add(vocabulary[mark + word[start:end]])
            start = end
    return found


def _merges(model: Document) -> Iterator[tuple[str, str, str]]:
    """Gives both parts and the result of each merge, in their order."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right, left + (right.removeprefix(prefix) if prefix else right)


def _add_merge_parts(model: Document, vocabulary: Mapping[str, int], kept: set[int]) -> None:
    """Adds the parts that kept tokens are merged from, down to single characters."""
    # The parts of a token come from earlier merges, or from none.
    for left, right, result in reversed(list(_merges(model))):
        if vocabulary.get(result) in kept:
            kept |= {vocabulary[part] for part in (left, right) if part in vocabulary}


def _renumber(document: Document, new_ids: Mapping[int, int]) -> None:
    """Rewrites `tokenizer.json` in place."""
    model = document["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new_ids[old] for token, old in model["vocab"].items() if old in new_ids}
    else:
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new_ids]
        model["unk_id"] = None if model["unk_id"] is None else new_ids[model["unk_id"]]
    if model["type"] == "BPE":
        whole = model["vocab"]
        merges = zip(model["merges"], _merges(model), strict=True)
        model["merges"] = [merge for merge, parts in merges if all(part in whole for part in parts)]
    for item in document["added_tokens"]:
        item["id"] = new_ids[item["id"]]
    padding = document.get("padding")
    if padding is not None:
        padding["pad_id"] = new_ids[padding["pad_id"]]
    _renumber_processor(document.get("post_processor"), new_ids)


def _renumber_processor(processor: Document | None, new_ids: Mapping[int, int]) -> None:
    if processor is None:
        return
    for item in processor.get("processors", ()):
        _renumber_processor(item, new_ids)
    for item in processor.get("special_tokens", {}).values():
        item["ids"] = [new_ids[old] for old in item["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            token, old = processor[name]
            processor[name] = [token, new_ids[old]]


def _renumber_config(config: PretrainedConfig, new_ids: Mapping[int, int]) -> None:
    for name, value in list(config.to_dict().items()):
        if not name.endswith(("_token_id", "_token_ids")) or value is None:
            continue
        if isinstance(value, int):
            setattr(config, name, new_ids.get(value))
        elif isinstance(value, list) and all(isinstance(item, int) for item in value):
            setattr(config, name, [new_ids[item] for item in value if item in new_ids])


def _check_positions(config: PretrainedConfig, new_ids: Mapping[int, int]) -> None:
    """Refuses a cut that would move positions, which RoBERTa and MPNet count from their padding token's number on."""
    family = FAMILIES.get(config.model_type)
    padding = getattr(config, "pad_token_id", None)
    if (
        family is not None
        and padding is not None
        and family.first_position(config) > 0
        and new_ids.get(padding) != padding
    ):
        raise UnsupportedModelError(
            f"the vocabulary of the {config.model_type!r} model cannot be cut so: its padding token must keep the "
            f"number {padding}, because positions are counted from there"
        )
