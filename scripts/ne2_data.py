"""Make data sets from encodechka's NE2 (RuDReC: sentences of drug reviews with labelled spans) by a rule.

    python scripts/ne2_data.py ../shared/data/encodechka/rudrec.json quickstart/ne2-labels --as labels
    python scripts/ne2_data.py ../shared/data/encodechka/rudrec.json quickstart/ne2-questions --as questions

`labels`: several labels for each text, the kinds of its spans (columns `text` and `labels`; an empty list where it has
none). `questions`: what a reader is asked about a text with spans (columns `question`, `context` and `answers` as in
SQuAD 2.0): for each kind of its spans one question, which every span of that kind answers, and one about a kind that it
has none of. Nobody has written these questions for a reader: a model that answers them has learnt to find the kinds.

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl`; the texts are drawn at random, always the same ones.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from ne1_data import Row, Span, write_rows

QUESTIONS = {
    "ADR": "Какое побочное действие описано?",
    "DI": "От какой болезни или жалобы лечатся?",
    "Drugclass": "К какому виду относится лекарство?",
    "Drugform": "В каком виде принимают лекарство?",
    "Drugname": "Как называется лекарство?",
    "Finding": "Какая ещё особенность больного названа?",
}
"""A question about each kind of span."""


def labels(text: str, spans: list[Span], draw: random.Random) -> list[Row]:
    """One row: the kinds that the text has."""
    return [{"text": text, "labels": sorted({kind for kind, _, _ in spans})}]


def questions(text: str, spans: list[Span], draw: random.Random) -> list[Row]:
    """One row for each kind that the text has, and one for a kind that it has not; none for a text without spans."""
    kinds = sorted({kind for kind, _, _ in spans})
    if not kinds:
        return []
    absent = draw.choice([kind for kind in QUESTIONS if kind not in kinds])
    rows = []
    for kind in (*kinds, absent):
        found = sorted({(start, text[start:stop]) for its, start, stop in spans if its == kind})
        answers = {"text": [answer for _, answer in found], "answer_start": [start for start, _ in found]}
        rows.append({"question": QUESTIONS[kind], "context": text, "answers": answers})
    return rows


RULES = {"labels": labels, "questions": questions}


def write_splits(source: Path, folder: Path, rule: str) -> dict[str, int]:
    """Writes the splits, each of other texts; gives the number of rows of each."""
    return write_rows(source, folder, RULES[rule])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--as", dest="rule", choices=sorted(RULES), required=True)
    arguments = parser.parse_args()
    print(write_splits(arguments.source, arguments.folder, arguments.rule))


if __name__ == "__main__":
    main()
