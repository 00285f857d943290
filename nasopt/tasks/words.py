"""Words of a text as razdel cuts Russian texts, and BIO labels of words from spans of characters.

The rules are those of razdel's `tokenize` (github.com/natasha/razdel, MIT), except for its special case "yahoo!".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

DASHES = "‑–—−-"
ENDINGS = ".?!…"
PUNCTUATION = "\\/!#$%&*+,.:;<=>?@^_`|~№…" + DASHES + "«“‘»”’\"„'" + "([{)]}"

_ATOM = re.compile(
    rf"(?P<russian>[а-яё]+)|(?P<latin>[a-z]+)|(?P<digits>\d+)|(?P<mark>[{re.escape(PUNCTUATION)}])|(?P<other>\S)",
    re.IGNORECASE,
)
_SMILE = re.compile(r"[=:;]-?[)(]{1,3}$")

Entity = tuple[str, int, int]
"""An entity's kind, its first character, and one past its last character."""


@dataclass(frozen=True)
class Word:
    """A word of a text, and its place there: the characters from `start` up to `stop`."""

    text: str
    start: int
    stop: int


def split_words(text: str) -> list[Word]:
    """The words and marks of a text in their order; white space belongs to none of them."""
    atoms = list(_ATOM.finditer(text))
    starts: list[int] = []
    for index, atom in enumerate(atoms):
        joined = (
            index > 0
            and atoms[index - 1].end() == atom.start()
            and _joins(text[starts[-1] : atom.start()], atoms, index)
        )
        if not joined:
            starts.append(atom.start())
    ends = {atom.start(): before.end() for before, atom in pairwise(atoms)}
    stops = [ends[start] for start in starts[1:]] + [atom.end() for atom in atoms[-1:]]
    return [Word(text[start:stop], start, stop) for start, stop in zip(starts, stops, strict=True)]


def _joins(word: str, atoms: list[re.Match[str]], index: int) -> bool:
    """Whether the atom at `index` continues the word so far, which ends right before it."""
    left, right = atoms[index - 1], atoms[index]
    return _joins_around_mark(atoms, index) or _joins_marks(word, left, right) or _joins_letters(left, right)


def _joins_around_mark(atoms: list[re.Match[str]], index: int) -> bool:
    """Whether a dash or underscore joins words (`кто-то`), or a point, comma or slash joins digits (`3,14`)."""
    for mark, before, after in ((index - 1, index - 2, index), (index, index - 1, index + 1)):
        if atoms[mark].lastgroup != "mark" or before < 0 or after >= len(atoms):
            continue
        sides = {atoms[before].lastgroup, atoms[after].lastgroup}
        inner = atoms[mark].group()
        if inner in DASHES + "_":
            return "mark" not in sides
        if inner in ".,/\\":
            return sides == {"digits"}
        return False  # the mark on the left decides
    return False


def _joins_marks(word: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether marks belong together: smiles, `?!`, `...`, `--` and `**`."""
    if left.lastgroup != "mark" or right.lastgroup != "mark":
        return False
    pair = left.group() + right.group()
    return (
        _SMILE.match(word + right.group()) is not None or all(mark in ENDINGS for mark in pair) or pair in ("--", "**")
    )


def _joins_letters(left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether two atoms join because a sign or a letter of another script clings to letters (`Δσ`)."""
    kinds = {left.lastgroup, right.lastgroup}
    return "other" in kinds and kinds <= {"other", "russian", "latin"}


def bio_labels(words: list[Word], entities: Iterable[Entity]) -> list[str]:
    """A label for each word: `B-kind` for the first word of an entity, `I-kind` for its others, else `O`.

    As in encodechka, an earlier entity keeps its words, and the first word of a text is never labelled.
    """
    word_at = {position: index for index, word in enumerate(words) for position in range(word.start, word.stop)}
    labels = ["O"] * len(words)
    for kind, start, stop in entities:
        prefix = "B-"
        for position in range(start, stop):
            index = word_at.get(position, 0)
            if index and labels[index] == "O":
                labels[index] = prefix + kind
                prefix = "I-"
    return labels
