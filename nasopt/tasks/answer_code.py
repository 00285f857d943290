"""Python code for model cards that finds answers: transformers 5 has no pipeline for it.

The code stands alone beside a loaded model, or the arrays of an ONNX file, and gives what
:meth:`nasopt.tasks.question_answering.QuestionAnswering.predict` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FUNCTION = '''
def best_answer(context, windows):
    """The best part of the context{none}. Each window has, by token: the
    start logits, the end logits, the text that it is of (1: the context), and its first and last character there."""
    best, silence, found = float("-inf"), float("inf"), ""
    for start, end, parts, places in windows:
        silence = min(silence, start[0] + end[0])
        inside = [token for token, part in enumerate(parts) if part == 1]
        firsts = sorted(inside, key=lambda token: -start[token])[:{n_best}]
        lasts = sorted(inside, key=lambda token: -end[token])[:{n_best}]
        for first in firsts:
            for last in lasts:
                score = start[first] + end[last]
                if first <= last < first + {longest} and score > best:
                    best, found = score, context[places[first][0] : places[last][1]].strip()
    return {returned}
'''

TORCH = """
import torch

{function}

def answer(question, context):
    texts = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length={limit},
        stride={overlap},
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        outputs = model(**{{name: texts[name] for name in {names}}})
    logits = outputs.start_logits.tolist(), outputs.end_logits.tolist()
    parts = [texts.sequence_ids(window) for window in range(len(texts["input_ids"]))]
    return best_answer(context, zip(*logits, parts, texts["offset_mapping"].tolist()))


print(answer("a question", "a text"))
"""

ARRAYS = """
{function}

answers = []
for number, (question, context) in enumerate(texts):
    rows = [row for row, of_row in enumerate(of_text) if of_row == number]
    windows = [
        (start_logits[row].tolist(), end_logits[row].tolist(), encoded[row].sequence_ids, encoded[row].offsets)
        for row in rows
    ]
    answers.append(best_answer(context, windows))
"""


@dataclass(frozen=True)
class Decoding:
    """The limits of an answer; see `[task.answers]`.

    Attributes:
        n_best: the best first tokens, and last ones, that are tried together.
        longest: the number of tokens of the longest answer.
        threshold: the difference of scores above which none is given.
        may_have_none: whether none may be given.
    """

    n_best: int
    longest: int
    threshold: float
    may_have_none: bool


def torch_code(decoding: Decoding, limit: int, overlap: int, names: Sequence[str]) -> str:
    """Code that defines `answer(question, context)` by `model` and `tokenizer`.

    Args:
        decoding: the limits of an answer.
        limit: the tokens of a window.
        overlap: the tokens that two windows share.
        names: the model's inputs.
    """
    return TORCH.format(function=_function(decoding), limit=limit, overlap=overlap, names=tuple(names))


def array_code(decoding: Decoding) -> str:
    """Code that finds `answers` for `texts`, pairs of a question and a context.

    It needs the arrays `start_logits` and `end_logits`, (windows, tokens) each, and for each window the tokens, in
    `encoded`, and the number of its pair, in `of_text`.
    """
    return ARRAYS.format(function=_function(decoding))


def _function(decoding: Decoding) -> str:
    given = f'"" if silence - best > {decoding.threshold!r} else found' if decoding.may_have_none else "found"
    none = '; "" for no answer' if decoding.may_have_none else ""
    return FUNCTION.format(n_best=decoding.n_best, longest=decoding.longest, returned=given, none=none)
