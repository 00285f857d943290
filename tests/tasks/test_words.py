"""Words as razdel documents and tests them, and BIO labels by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasopt.tasks.words import bio_labels, split_words

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("кто-нибудь здесь - нет", ["кто-нибудь", "здесь", "-", "нет"]),
        ("имя_поля", ["имя_поля"]),
        ("2,75 или 1.5 или 3/4", ["2,75", "или", "1.5", "или", "3/4"]),
        ("дома 7, 8", ["дома", "7,", "8"]),
        ("Кружка на 0.5л (50/64 см³);...", ["Кружка", "на", "0.5", "л", "(", "50/64", "см³", ")", ";", "..."]),
        ("Что?! Да :)) =(.", ["Что", "?!", "Да", ":))", "=(", "."]),
        ("«дом».", ["«", "дом", "»", "."]),
        ("Δσ mβж x2", ["Δσ", "mβж", "x", "2"]),
        ("кто -то", ["кто", "-то"]),
    ],
)
def test_cuts_as_razdel_does(text: str, words: list[str]) -> None:
    assert [word.text for word in split_words(text)] == words


def test_words_lie_where_they_say() -> None:
    text = "  Иван Петров-Водкин,  1.5 кг?!"

    words = split_words(text)

    assert [word.text for word in words] == ["Иван", "Петров-Водкин", ",", "1.5", "кг", "?!"]
    assert all(text[word.start : word.stop] == word.text for word in words)


def test_an_earlier_entity_keeps_its_words_and_the_first_word_has_no_label() -> None:
    text = "Мэр Москвы Иван Петров в Твери"
    entities = [("Post", 0, 3), ("Org", 0, 10), ("Person", 11, 22), ("Place", 16, 30)]

    labels = bio_labels(split_words(text), entities)

    assert labels == ["O", "B-Org", "B-Person", "I-Person", "B-Place", "I-Place"]


@pytest.mark.parametrize("name", ["factru", "rudrec"])
def test_real_texts_are_cut_as_razdel_cuts_them(name: str) -> None:
    razdel = pytest.importorskip("razdel", reason="razdel is not installed: pip install razdel")
    file = SHARED / "data" / "encodechka" / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"there is no {file}")
    texts = json.loads(file.read_text(encoding="utf-8"))["texts"][:100]
    different = [
        text
        for text in texts
        if [(word.text, word.start, word.stop) for word in split_words(text)]
        != [(word.text, word.start, word.stop) for word in razdel.tokenize(text)]
    ]
    assert different == []
