"""Make a data set for token classification from encodechka's NE1 (factRuEval-2016): texts with labelled spans.

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` with the columns `text` and `spans`; the texts are drawn at
random, always the same ones.

Usage: python scripts/ne1_data.py FACTRU_JSON FOLDER        # ../shared/data/encodechka/factru.json quickstart/ne1
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
SEED = 0


def write_splits(source: Path, folder: Path) -> dict[str, int]:
    """Writes the splits; gives the number of texts of each."""
    content = json.loads(source.read_text(encoding="utf-8"))
    rows = [
        {"text": text, "spans": [{"start": start, "end": end, "label": kind} for kind, start, end in spans]}
        for text, spans in zip(content["texts"], content["labels"], strict=True)
    ]
    random.Random(SEED).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    sizes, start = {}, 0
    for role, share in SHARES.items():
        stop = len(rows) if role == "test" else start + round(share * len(rows))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[start:stop])
        (folder / f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
        sizes[role], start = stop - start, stop
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_splits(arguments.source, arguments.folder))


if __name__ == "__main__":
    main()
