"""NE1 as a data set for token classification."""

from __future__ import annotations

import json
from pathlib import Path

from ne1_data import write_splits


def test_every_text_is_in_one_split_with_its_spans(tmp_path: Path) -> None:
    texts = [f"text {number} Ж" for number in range(10)]
    labels = [[["Person", 0, 4]] if number % 2 else [] for number in range(10)]
    (tmp_path / "factru.json").write_text(json.dumps({"texts": texts, "labels": labels}), encoding="utf-8")
    assert write_splits(tmp_path / "factru.json", tmp_path / "ne1") == {"train": 6, "validation": 2, "test": 2}
    files = [tmp_path / "ne1" / f"{role}.jsonl" for role in ("train", "validation", "test")]
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["text"] for row in rows) == sorted(texts)
    wanted = {
        text: [{"start": 0, "end": 4, "label": "Person"}] * len(spans)
        for text, spans in zip(texts, labels, strict=True)
    }
    assert {row["text"]: row["spans"] for row in rows} == wanted
