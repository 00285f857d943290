"""Make a data set for token classification from encodechka's NE1 (factRuEval-2016): texts with labelled spans.

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` with the columns `text` and `spans`; the texts are drawn at
random, always the same ones.

Usage: python scripts/ne1_data.py FACTRU_JSON FOLDER        # ../shared/data/encodechka/factru.json quickstart/ne1
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
SEED = 0
Row = dict[str, Any]
Span = tuple[str, int, int]
"""Its kind, its first character, and one past its last."""


def write_splits(source: Path, folder: Path) -> dict[str, int]:
    """Writes the splits; gives the number of texts of each."""
    return write_rows(source, folder, tagged)


def tagged(text: str, spans: list[Span], draw: random.Random) -> list[Row]:
    """One row: the text and its spans."""
    return [{"text": text, "spans": [{"start": start, "end": stop, "label": kind} for kind, start, stop in spans]}]


def write_rows(
    source: Path, folder: Path, rows_of: Callable[[str, list[Span], random.Random], list[Row]]
) -> dict[str, int]:
    """Writes what a rule makes of the texts of a file of encodechka, each split of other texts.

    Args:
        rows_of: gives the rows of a text and its spans.

    Returns:
        The number of rows of each split.
    """
    content = json.loads(source.read_text(encoding="utf-8"))
    texts = [
        (text, [(str(kind), int(start), int(stop)) for kind, start, stop in spans])
        for text, spans in zip(content["texts"], content["labels"], strict=True)
    ]
    draw = random.Random(SEED)
    draw.shuffle(texts)
    folder.mkdir(parents=True, exist_ok=True)
    sizes, start = {}, 0
    for role, share in SHARES.items():
        stop = len(texts) if role == "test" else start + round(share * len(texts))
        rows = [row for text, spans in texts[start:stop] for row in rows_of(text, spans, draw)]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
        sizes[role], start = len(rows), stop
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_splits(arguments.source, arguments.folder))


if __name__ == "__main__":
    main()
