"""NE2 as data sets of several labels and of questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ne2_data import QUESTIONS, write_splits

TEXTS = ["Мазь помогла.", "Сыпь от мази, мазь не та.", "Ничего."] * 5
SPANS = [[["Drugform", 0, 4]], [["Drugform", 8, 12], ["ADR", 0, 4], ["Drugform", 14, 18]], []] * 5


def rows_of(tmp_path: Path, rule: str) -> list[dict[str, Any]]:
    (tmp_path / "rudrec.json").write_text(json.dumps({"texts": TEXTS, "labels": SPANS}), encoding="utf-8")
    sizes = write_splits(tmp_path / "rudrec.json", tmp_path / "ne2", rule)
    read = {
        role: [json.loads(line) for line in (tmp_path / "ne2" / f"{role}.jsonl").read_text("utf-8").splitlines()]
        for role in ("train", "validation", "test")
    }
    assert {role: len(rows) for role, rows in read.items()} == sizes
    assert min(sizes.values()) > 0
    return [row for rows in read.values() for row in rows]


def test_labels_are_the_kinds_of_spans(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "labels")
    assert len(rows) == len(TEXTS)
    kinds = {TEXTS[0]: ["Drugform"], TEXTS[1]: ["ADR", "Drugform"], TEXTS[2]: []}
    assert all(row["labels"] == kinds[row["text"]] for row in rows)


def test_each_kind_is_asked_for_once_and_one_that_is_absent(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "questions")
    assert len(rows) == 5 * (2 + 3)
    wanted = {
        (TEXTS[0], "Drugform"): ([0], ["Мазь"]),
        (TEXTS[1], "Drugform"): ([8, 14], ["мази", "мазь"]),
        (TEXTS[1], "ADR"): ([0], ["Сыпь"]),
    }
    asked = {question: kind for kind, question in QUESTIONS.items()}
    for row in rows:
        starts, texts = wanted.get((row["context"], asked[row["question"]]), ([], []))
        assert row["answers"] == {"text": texts, "answer_start": starts}
