"""Tokenises questions with their contexts: long contexts in windows that overlap, each beside the whole question.

An answer is learnt in every window that it lies in as a whole; in all others there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from nasopt.tasks.answers import Question
from nasopt.tasks.batches import Batch, EncodedSplit, gather_positions
from nasopt.tasks.encoding import cached_table, flatten
from nasopt.tasks.spans import NO_ANSWER
from nasopt.tasks.windows import WindowedSplit, Windows

CONTEXT = 1
"""The number of the context among the texts that are read together."""
QUESTION_CHARACTERS = 2
"""No tokenizer makes more tokens of a text than it has bytes, and this many more."""


@dataclass(frozen=True)
class AnswerBatch(Batch):
    """A padded batch whose labels are the first and the last token of each window's answer, int64, shape (batch, 2).

    Attributes:
        context: whether each token is one of the context, bool, shape (batch, tokens).
    """

    context: Tensor

    @property
    def choices(self) -> Tensor:
        """The positions at which an answer may begin or end: the context and that of no answer; (batch, tokens)."""
        found = self.context.clone()
        found[:, NO_ANSWER] = True
        return found

    def to(self, device: torch.device) -> AnswerBatch:
        moved = super().to(device)
        return AnswerBatch(moved.inputs, moved.labels, moved.indices, self.context.to(device, non_blocking=True))


@dataclass(frozen=True)
class AnsweredSplit(WindowedSplit):
    """The windows of one split's questions.

    Attributes:
        begins: the first character, in the context, of each token, int32, shape (total_tokens,); -1 for tokens of the
            question and special ones.
        stops: one past the last character of each.
        answers: the positions of the first and the last token of each window's answer, int64, shape (windows, 2).
        questions: the question that each window belongs to, in ascending order, int64, shape (windows,).
        asked: the questions, as they were written.
    """

    begins: Tensor
    stops: Tensor
    answers: Tensor
    questions: Tensor
    asked: Sequence[Question]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.windows.fingerprint.encode())
        for tensor in (self.begins, self.stops, self.answers, self.questions):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def batch(self, indices: Tensor) -> AnswerBatch:
        """The windows at `indices`, shape (batch,)."""
        positions, mask = gather_positions(self.windows.offsets, indices)
        context = (self.begins[positions] >= 0) & mask
        return AnswerBatch(self.windows.batch(indices).inputs, self.answers[indices], indices, context)


@dataclass(frozen=True)
class QuestionEncoder(Windows):
    """Tokenises questions with their contexts."""

    def encode(self, questions: Sequence[Question], role: str, folder: Path) -> AnsweredSplit:
        """Tokenises questions, or reads what an earlier call left in `folder`.

        Args:
            questions: those of a split; each leaves room for a window of its context, see :meth:`too_long`.
            role: the split's role, which names the cache.
            folder: the folder of the cache.
        """
        key = self._key(questions)
        table = cached_table(
            Dataset.from_dict({"row": list(range(len(questions)))}),
            lambda rows: self._tokenise(rows["row"], [questions[row] for row in rows["row"]]),
            folder / f"{role}-{key}.arrow",
            new_fingerprint=key,
        )
        flat = {name: flatten(table, name) for name in (*self.padding, "begins", "stops")}
        offsets, rows = flat["input_ids"][1], torch.tensor(table["row"][:])
        columns = {name: flat[name][0] for name in self.padding}
        windows = EncodedSplit(columns, dict(self.padding), offsets, torch.zeros(len(offsets) - 1))
        self.log_share(role, "contexts", torch.bincount(rows, minlength=len(questions)))
        answers = torch.tensor([table["first"][:], table["last"][:]]).T.contiguous()
        return AnsweredSplit(windows, flat["begins"][0], flat["stops"][0], answers, rows, questions)

    def count(self, questions: Sequence[Question]) -> int:
        """The number of windows of some questions."""
        return sum(len(self.tokens([its.question], [its.context])["input_ids"]) for its in questions)

    @property
    def room(self) -> int:
        """The tokens of a window that are left for the question and at least one new token of the context."""
        special: int = self.tokenizer.num_special_tokens_to_add(pair=True)
        return self.limit - special - self.overlap

    def too_long(self, questions: Sequence[Question]) -> list[tuple[int, int]]:
        """The rows of questions beside which windows of the limit have no room to move on, and their tokens."""
        room, found = self.room, []
        for row, its in enumerate(questions):
            if len(its.question.encode()) + QUESTION_CHARACTERS >= room:  # else it is short enough without a look
                tokens = len(self.tokenizer(its.question, add_special_tokens=False)["input_ids"])
                found += [(row, tokens)] * (tokens >= room)
        return found

    def _tokenise(self, rows: Sequence[int], questions: Sequence[Question]) -> dict[str, Any]:
        encoded = self.tokens([its.question for its in questions], [its.context for its in questions])
        of_question: list[int] = encoded["overflow_to_sample_mapping"]
        columns: dict[str, list[Any]] = {name: encoded[name] for name in self.padding}
        columns |= {name: [] for name in ("begins", "stops", "first", "last")}
        for window, question in enumerate(of_question):
            inside = np.array([part == CONTEXT for part in encoded.sequence_ids(window)])
            places = np.where(inside[:, None], np.array(encoded["offset_mapping"][window]), -1)
            edges = (
                window == 0 or of_question[window - 1] != question,
                window + 1 == len(of_question) or of_question[window + 1] != question,
            )
            first, last = answer_tokens(questions[question], places, edges)
            for name, value in (("begins", places[:, 0]), ("stops", places[:, 1])):
                columns[name].append(value.tolist())
            columns["first"].append(first)
            columns["last"].append(last)
        return {**columns, "row": [rows[question] for question in of_question]}

    def _key(self, questions: Sequence[Question]) -> str:
        digest = hashlib.sha256(f"{self.identity} {self.limit} questions {self.overlap}".encode())
        for its in questions:
            answer = (its.answers[0], its.starts[0]) if its.answers else ()
            digest.update(f"{its.question}\0{its.context}\0{answer}\0".encode())
        return digest.hexdigest()[:16]


def answer_tokens(question: Question, places: NDArray[np.int64], edges: tuple[bool, bool]) -> tuple[int, int]:
    """The positions of the first and the last token of a question's first right answer, in one window.

    Args:
        question: the question.
        places: the first character, in the context, of each token of the window and one past its last, (tokens, 2);
            -1 for tokens that are not of the context.
        edges: whether the window is the context's first one, and its last one.

    Returns:
        Twice :data:`NO_ANSWER` where there is no answer, or the window does not hold all of it.
    """
    inside = np.flatnonzero(places[:, 0] >= 0)
    if not question.answers or not len(inside):
        return NO_ANSWER, NO_ANSWER
    answer, start = question.answers[0], question.starts[0]
    start += len(answer) - len(answer.lstrip())
    stop = start + len(answer.strip())
    begins_here = edges[0] or places[inside[0], 0] <= start
    ends_here = edges[1] or places[inside[-1], 1] >= stop
    touched = inside[(places[inside, 1] > start) & (places[inside, 0] < stop)]
    if not (begins_here and ends_here and len(touched)):
        return NO_ANSWER, NO_ANSWER
    return int(touched[0]), int(touched[-1])
