"""Windows of contexts, and the tokens of answers in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FILLERS, word_tokenizer

from nasopt.tasks.answers import Question
from nasopt.tasks.encoding import identity_of
from nasopt.tasks.question_windows import AnsweredSplit, QuestionEncoder, answer_tokens

LONG = " ".join([*FILLERS, "good", "great", *FILLERS])  # 22 words


def encoder(limit: int = 16, overlap: int = 4) -> QuestionEncoder:
    tokenizer = word_tokenizer()
    padding = {"input_ids": 0, "token_type_ids": 0}
    return QuestionEncoder(tokenizer, identity_of(tokenizer), limit, overlap, padding)


def question(context: str, *answers: str, asked: str = "was it") -> Question:
    return Question(asked, context, answers, tuple(map(context.index, answers)))


def texts_of(split: AnsweredSplit, asked: list[Question]) -> list[str]:
    """The text of each window's answer, by the characters of its tokens; `-` for none."""
    found = []
    for window, (first, last) in enumerate(split.answers.tolist()):
        offset = int(split.windows.offsets[window])
        context = asked[int(split.questions[window])].context
        text = context[int(split.begins[offset + first]) : int(split.stops[offset + last])]
        found.append(text if first else "-")
    return found


def test_an_answer_is_in_each_window_that_holds_it(tmp_path: Path) -> None:
    asked = [question("the good film", "good film"), question(LONG, "good great"), question("the film")]
    split = encoder().encode(asked, "train", tmp_path)
    # A window has 16 - 3 - 2 = 11 words of the context, of which the next one shares 4.
    assert split.questions.tolist() == [0, 1, 1, 1, 2]
    assert split.lengths.tolist() == [8, 16, 16, 13, 7]
    assert texts_of(split, asked) == ["good film", "-", "good great", "-", "-"]
    assert encoder().count(asked) == len(split) == 5
    assert texts_of(encoder(overlap=8).encode(asked, "train", tmp_path), asked).count("good great") == 3


def test_only_the_context_has_characters(tmp_path: Path) -> None:
    asked = [question("the good film", "good")]
    split = encoder().encode(asked, "train", tmp_path)
    assert split.begins.tolist() == [-1, -1, -1, -1, 0, 4, 9, -1]
    assert split.stops.tolist() == [-1, -1, -1, -1, 3, 8, 13, -1]
    batch = split.batch(torch.tensor([0]))
    assert batch.context.int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 0]]
    assert batch.choices.int().tolist() == [[1, 0, 0, 0, 1, 1, 1, 0]]
    assert batch.labels.tolist() == [[5, 5]]
    assert batch.to(torch.device("cpu")).choices.equal(batch.choices)


def test_padding_is_no_choice(tmp_path: Path) -> None:
    asked = [question("the good film", "good"), question("it", "it")]
    batch = encoder().encode(asked, "train", tmp_path).batch(torch.tensor([0, 1]))
    assert batch.choices.int().tolist() == [[1, 0, 0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 0, 0, 0]]


def test_other_answers_are_other_tokens_in_the_cache(tmp_path: Path) -> None:
    first = encoder().encode([question("the good film", "good")], "train", tmp_path)
    again = encoder().encode([question("the good film", "good", "the")], "train", tmp_path)
    other = encoder().encode([question("the good film", "film")], "train", tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 2  # only the first answer is learnt
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert again.asked[0].answers == ("good", "the")


@pytest.mark.parametrize(
    ("answer", "edges", "expected"),
    [
        ("bcd", (False, False), (2, 3)),  # tokens are "a", "bc", "de": parts of two
        (" bc", (False, False), (2, 2)),  # blanks do not count
        ("a", (False, False), (1, 1)),
        ("xa", (False, False), (0, 0)),  # begins before the window
        ("def", (False, False), (0, 0)),  # ends after it
        ("def", (False, True), (2 + 1, 3)),  # what the tokenizer left out at the end of the text
        ("xa", (True, False), (1, 1)),
        ("x", (True, False), (0, 0)),
    ],
)
def test_the_tokens_of_an_answer(answer: str, edges: tuple[bool, bool], expected: tuple[int, int]) -> None:
    context = "xa bcdef"
    places = np.array([[-1, -1], [1, 2], [3, 5], [5, 7], [-1, -1]])
    assert answer_tokens(Question("q", context, (answer,), (context.index(answer),)), places, edges) == expected


def test_questions_that_leave_no_room_are_found(tmp_path: Path) -> None:
    asked = [
        question("it", asked="was it"),
        question("it", asked=" ".join(["the"] * 9)),
        question("it", asked="a " * 8),
    ]
    assert encoder().too_long(asked) == [(1, 9)]  # 16 - 3 - 4 = 9: one token of the context has to be new
    fits = encoder().encode([question(LONG, asked="a " * 8)], "train", tmp_path)
    assert fits.lengths.max() == 16
