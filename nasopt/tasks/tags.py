"""Reads texts whose words have tags: lists of words with a tag for each, or texts with labelled spans of characters."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, choices
from nasopt.tasks.labels import plain_name
from nasopt.tasks.texts import kind_of, refuse_rows
from nasopt.tasks.words import Word, split_words

OUTSIDE = "O"
"""The tag of words that belong to no entity."""
SPAN_KEYS = ("start", "end", "label")
SPANS = f"a list of {{{', '.join(SPAN_KEYS)}}} for each text (json, parquet)"

_TAG = re.compile(r"[BIES]-.+")
_WHOLE = re.compile(r"0|[1-9]\d*")
_SHOWN = 10

Span = tuple[int, int, str]
"""The first character of an entity, one past its last, and its kind."""


@dataclass(frozen=True)
class TaggedText:
    """A text with its words.

    Attributes:
        text: the text as a tokenizer gets it.
        words: the first character of each word, and one past its last, int64, shape (words, 2).
        tags: the ids of the words' tags, int64, shape (words,).
    """

    text: str
    words: NDArray[np.int64]
    tags: NDArray[np.int64]


@dataclass(frozen=True)
class TaggedTexts:
    """The texts of every split.

    Attributes:
        names: the tags in the order of their ids.
        splits: the texts by role.
        remarks: sentences about decisions that could have been made otherwise.
    """

    names: tuple[str, ...]
    splits: Mapping[str, Sequence[TaggedText]]
    remarks: tuple[str, ...] = ()

    @property
    def has_entities(self) -> bool:
        """Whether all tags say, in the manner of IOB or IOBES, which words are one entity."""
        return all(name == OUTSIDE or _TAG.fullmatch(name) for name in self.names)


@dataclass(frozen=True)
class _Row:
    """A text as it was read, with its tags by name."""

    text: str
    words: Sequence[tuple[int, int]]
    tags: Sequence[str]


def read_tagged_texts(data: Mapping[str, Dataset], config: TaskConfig, head: Sequence[str] | None) -> TaggedTexts:
    """The texts of every split, with tags as the data name them or as a trained head does.

    Args:
        data: the splits by role.
        config: the study file's `[task]`.
        head: the tags of the model's head in the order of their ids, if it is to be used.

    Raises:
        DatasetError: a text has no words, tags or spans are missing or do not fit it, or are not the head's.
    """
    (column,), label = config.dataset.text, config.dataset.label
    by_word = isinstance(_first(data["train"], column), list)
    read = _of_words if by_word else _of_spans
    rows = {role: read(split, role, column, label) for role, split in data.items()}
    used = {role: {tag for row in found for tag in row.tags} for role, found in rows.items()}
    declared = _declared(data["train"], label) if by_word else ()
    names = declared or _in_order(set().union(*used.values()))
    remarks = []
    if head is not None:
        ids, said = _of_head(set().union(*used.values()), tuple(head))
        names, remarks = tuple(head), said
    else:
        ids = {name: index for index, name in enumerate(names)}
    if len(names) < 2:
        raise DatasetError(f"task.dataset.label: there are fewer than two tags ({choices(names)})")
    new = [name for name in set().union(*used.values()) - used["train"]]
    if new:
        remarks.append(f"no word of the training split has the tags {choices(sorted(new)[:_SHOWN])}")
    splits = {
        role: [
            TaggedText(
                row.text,
                np.array(row.words, dtype=np.int64).reshape(-1, 2),
                np.array([ids[tag] for tag in row.tags], dtype=np.int64),
            )
            for row in found
        ]
        for role, found in rows.items()
    }
    return TaggedTexts(names, splits, tuple(remarks))


def _first(split: Dataset, column: str) -> Any:
    return next((value for value in split[column] if value is not None), None)


def _declared(split: Dataset, column: str) -> tuple[str, ...]:
    """The tags in the order that the data set itself gives; empty where it gives none."""
    inner = getattr(split.features[column], "feature", None)
    return tuple(map(str.strip, inner.names)) if isinstance(inner, datasets.ClassLabel) else ()


def _in_order(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags in the order of their ids: numbers by size; `O`, then by kind, each with its `B-` and `I-`."""
    found = set(tags)
    if all(map(_WHOLE.fullmatch, found)):
        return tuple(sorted(found, key=int))
    if all(tag == OUTSIDE or tag.startswith(("B-", "I-")) for tag in found):
        kinds = sorted({tag[2:] for tag in found - {OUTSIDE}})
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))
    return tuple(sorted(found, key=lambda tag: (tag != OUTSIDE, tag)))


def _of_head(used: set[str], head: tuple[str, ...]) -> tuple[dict[str, int], list[str]]:
    """The head's ids of the data's tags, by name or by number, and a remark if it is by number."""
    plain = {plain_name(name): index for index, name in enumerate(head)}
    if {plain_name(tag) for tag in used} <= plain.keys():
        return {tag: plain[plain_name(tag)] for tag in used}, []
    if all(map(_WHOLE.fullmatch, used)) and max(map(int, used)) < len(head):
        shown = choices([f"{tag} is {head[int(tag)]}" for tag in sorted(used, key=int)][:_SHOWN])
        return {tag: int(tag) for tag in used}, [f"tags are the head's by number: {shown}"]
    unknown = sorted(tag for tag in used if plain_name(tag) not in plain)
    raise DatasetError(
        f"task.dataset.label: the tags {choices(unknown[:_SHOWN])} are not among those of the model's head "
        f"({choices(head[:_SHOWN])}); rename them, or set task.new_head = true to train a new head"
    )


def _of_words(split: Dataset, role: str, column: str, label: str) -> list[_Row]:
    """Lists of words with a tag for each; the text is the words, joined by blanks."""
    texts: list[Any] = split[column][:]
    tags: list[Any] = split[label][:]
    refuse_rows("text", role, column, [not isinstance(words, list) or not words for words in texts], "wordless")
    odd = [any(not isinstance(word, str) for word in words) for words in texts]
    refuse_rows("text", role, column, odd, "unreadable", "lists of words are wanted")
    _refuse_kind(tags, role, label, "a list of one tag for each word (json, parquet)")
    unequal = [row for row, (words, found) in enumerate(zip(texts, tags, strict=True)) if len(words) != len(found)]
    if unequal:
        row = unequal[0]
        raise DatasetError(
            f"task.dataset.label: {len(unequal)} texts of the {role} split have not one tag for each word (the first "
            f"in row {row}, counted from 0: {len(texts[row])} words, {len(tags[row])} tags in the column `{label}`)"
        )
    wrong = [any(isinstance(tag, bool) or not isinstance(tag, str | int) for tag in found) for found in tags]
    refuse_rows("label", role, label, wrong, "unreadable", "a tag is a text or a whole number")
    declared = _declared(split, label)
    refuse_rows("label", role, label, [_has_negative(found) for found in tags], "negative", "every word has a tag")
    return [
        _Row(
            " ".join(words),
            _places(words),
            [declared[tag] if declared and isinstance(tag, int) else str(tag).strip() for tag in found],
        )
        for words, found in zip(texts, tags, strict=True)
    ]


def _has_negative(tags: Sequence[str | int]) -> bool:
    return any(isinstance(tag, int) and tag < 0 for tag in tags)


def _places(words: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of each word in the words joined by blanks."""
    found, start = [], 0
    for word in words:
        found.append((start, start + len(word)))
        start += len(word) + 1
    return found


def _of_spans(split: Dataset, role: str, column: str, label: str) -> list[_Row]:
    """Texts with labelled spans; their words are those of :func:`nasopt.tasks.words.split_words`."""
    texts: list[Any] = split[column][:]
    odd = [not isinstance(text, str) for text in texts]
    refuse_rows("text", role, column, odd, "unreadable", "texts, or lists of words, are wanted")
    cut = [split_words(text) for text in texts]
    refuse_rows("text", role, column, [not words for words in cut], "wordless")
    values: list[Any] = [_listed(value) for value in split[label][:]]
    _refuse_kind(values, role, label, SPANS)
    rows = zip(texts, values, strict=True)
    wrong = [any(not _is_span(span, len(text)) for span in found) for text, found in rows]
    refuse_rows("label", role, label, wrong, "unreadable", f"wanted is {SPANS}, with characters of the text")
    return [
        _Row(
            text,
            [(word.start, word.stop) for word in words],
            span_tags(words, [(span["start"], span["end"], span["label"].strip()) for span in spans]),
        )
        for text, words, spans in zip(texts, cut, values, strict=True)
    ]


def _listed(value: Any) -> Any:
    """The spans as a list of dictionaries, where `datasets` has made one dictionary of lists of them."""
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in SPAN_KEYS):
        return value
    items = zip(*(value[key] for key in SPAN_KEYS), strict=False)
    return [dict(zip(SPAN_KEYS, item, strict=True)) for item in items]


def _is_span(span: Any, length: int) -> bool:
    if not isinstance(span, dict) or not set(SPAN_KEYS) <= span.keys():
        return False
    start, end, kind = (span[key] for key in SPAN_KEYS)
    return isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length and bool(_name(kind))


def _name(kind: Any) -> str:
    return kind.strip() if isinstance(kind, str) else ""


def _refuse_kind(values: Sequence[Any], role: str, label: str, wanted: str) -> None:
    odd = next((value for value in values if not isinstance(value, list)), None)
    if any(value is None for value in values):
        refuse_rows("label", role, label, [value is None for value in values], "missing", f"wanted is {wanted}")
    if odd is not None:
        raise DatasetError(
            f"task.dataset.label: the column `{label}` of the {role} split holds labels of the kind {kind_of(odd)}; "
            f"wanted is {wanted}"
        )


def span_tags(words: Sequence[Word], spans: Iterable[Span]) -> list[str]:
    """A tag for each word: `B-kind` for the first word that a span touches, `I-kind` for its others, else `O`.

    Where spans overlap, the one that begins first, of these the longest, keeps its words.
    """
    tags = [OUTSIDE] * len(words)
    stops = [word.stop for word in words]
    for start, stop, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        prefix = "B"
        for index in range(bisect_right(stops, start), len(words)):
            if words[index].start >= stop:
                break
            if tags[index] == OUTSIDE:
                tags[index], prefix = f"{prefix}-{kind}", "I"
    return tags
