"""Words with tags as they are written: lists of words, spans, ids, a head's names; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.tags import TaggedText, TaggedTexts, read_tagged_texts, span_tags
from nasopt.tasks.words import split_words

CITY = {"text": "Ivan sees St. Petersburg.", "spans": [{"start": 10, "end": 24, "label": "LOC"}]}


def read(folder: Path, rows: list[dict[str, Any]], head: list[str] | None = None, **others: Any) -> TaggedTexts:
    for role in ("train", "validation"):
        lines = [json.dumps(row) for row in others.get(role, rows)]
        (folder / f"{role}.jsonl").write_text("\n".join(lines) + "\n")
    return opened(folder, "tokens" if "tokens" in rows[0] else "text", list(rows[0])[-1], head)


def opened(path: Path, text: str, label: str, head: list[str] | None = None) -> TaggedTexts:
    document = {"model": "x", "type": "token-classification", "metric": "accuracy"}
    dataset = {"path": str(path), "text": [text], "label": label}
    config = TaskConfig.model_validate({**document, "dataset": dataset})
    return read_tagged_texts(load_splits(config.dataset, (text, label), are_texts=False), config, head)


def named(found: TaggedTexts, text: TaggedText) -> list[tuple[str, str]]:
    words = [text.text[start:stop] for start, stop in text.words]
    return list(zip(words, [found.names[tag] for tag in text.tags], strict=True))


def test_lists_of_words(tmp_path: Path) -> None:
    found = read(tmp_path, [{"tokens": ["New", "York", ",", "Ivan"], "tags": ["B-LOC", "I-LOC", "O", "B-PER"]}])
    assert found.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")  # with the tags that an entity may go on with
    (text,) = found.splits["train"]
    assert text.text == "New York , Ivan"
    assert named(found, text) == [("New", "B-LOC"), ("York", "I-LOC"), (",", "O"), ("Ivan", "B-PER")]


def test_spans_become_tags_of_words(tmp_path: Path) -> None:
    found = read(tmp_path, [CITY])
    assert found.names == ("O", "B-LOC", "I-LOC")
    (text,) = found.splits["validation"]
    assert named(found, text) == [
        ("Ivan", "O"),
        ("sees", "O"),
        ("St", "B-LOC"),
        (".", "I-LOC"),
        ("Petersburg", "I-LOC"),
        (".", "O"),
    ]


def test_the_first_word_may_be_an_entity_and_the_outer_of_two_spans_stays() -> None:
    words = split_words("Bank of Russia pays")
    spans = [(8, 14, "LOC"), (0, 14, "ORG"), (15, 19, "ACT")]
    assert span_tags(words, spans) == ["B-ORG", "I-ORG", "I-ORG", "B-ACT"]
    assert span_tags(words, [(0, 4, "A"), (2, 7, "B")]) == ["B-A", "B-B", "O", "O"]


def test_ids_are_named_by_the_data_set(tmp_path: Path) -> None:
    names = ["O", "B-PER", "I-PER"]
    features = Features({"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=names))})
    rows = Dataset.from_dict({"tokens": [["Ivan", "runs"]], "tags": [[1, 0]]}, features=features)
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
    found = opened(tmp_path / "saved", "tokens", "tags")
    assert found.names == tuple(names)
    assert named(found, found.splits["train"][0]) == [("Ivan", "B-PER"), ("runs", "O")]


def test_parts_of_speech_are_no_entities(tmp_path: Path) -> None:
    found = read(tmp_path, [{"tokens": ["Ivan", "runs"], "pos": ["NOUN", "VERB"]}])
    assert found.names == ("NOUN", "VERB")
    assert not found.has_entities


def test_a_head_has_its_own_order(tmp_path: Path) -> None:
    head = ["b-per", "O", "I-PER"]
    rows = [{"tokens": ["Ivan", "runs"], "tags": ["B-PER", "O"]}]
    assert read(tmp_path, rows, head).splits["train"][0].tags.tolist() == [0, 1]
    by_number = read(tmp_path, [{"tokens": ["Ivan", "runs"], "tags": [0, 1]}], head)
    assert by_number.splits["train"][0].tags.tolist() == [0, 1]
    assert "tags are the head's by number: 0 is b-per, 1 is O" in by_number.remarks[0]
    with pytest.raises(DatasetError, match=r"the tags B-LOC are not among those of the model's head .*new_head = true"):
        read(tmp_path, [{"tokens": ["Ivan", "runs"], "tags": ["B-LOC", "O"]}], head)


def test_tags_that_only_other_splits_have_are_told(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}]
    found = read(tmp_path, rows, validation=[{"tokens": ["a"], "tags": ["B-Y"]}])
    assert found.names == ("O", "B-X", "I-X", "B-Y", "I-Y")
    assert found.remarks == ("no word of the training split has the tags B-Y",)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}], r"1 texts .*row 0.*2 words, 1 tags in the column `tags`"),
        ([{"tokens": ["a"], "tags": ["O"]}, {"tokens": [], "tags": []}], r"1 wordless texts .*row 1"),
        ([{"tokens": ["a"], "tags": "O"}], r"labels of the kind str; wanted is a list of one tag for each word"),
        ([{"tokens": ["a"], "tags": None}, {"tokens": ["a"], "tags": ["O"]}], r"1 missing labels .*row 0"),
        ([{"tokens": ["a"], "tags": [-100]}], r"1 negative labels .*every word has a tag"),
        ([{"tokens": ["a"], "tags": ["O"]}], r"fewer than two tags \(O\)"),
        ([{"text": "a b", "spans": ["x"]}], r"1 unreadable labels .*wanted is a list of \{start, end, label\}"),
        ([{"text": "a b", "spans": [{"start": 2, "end": 9, "label": "X"}]}], r"1 unreadable labels .*characters"),
        ([{"text": "a b", "spans": "2-3 X"}], r"labels of the kind str; wanted is a list of \{start, end, label\}"),
        ([{"text": " ", "spans": []}], r"1 wordless texts"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, rows: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason) as found:
        read(tmp_path, rows)
    assert "\n" not in str(found.value)
