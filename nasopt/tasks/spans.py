"""Finds the span of tokens that is most likely the answer to a question."""

from __future__ import annotations

import torch
from torch import Tensor

NO_ANSWER = 0
"""The position that stands for no answer: the first token, which is a special one."""


def best_spans(start: Tensor, end: Tensor, context: Tensor, n_best: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best span of each of B windows: that with the highest sum of its first token's and its last token's logits.

    Args:
        start: logits of being an answer's first token, (B, T).
        end: logits of being its last one, (B, T).
        context: whether each token is one of the context, of which an answer is a part; bool, (B, T).
        n_best: that many of the best first tokens are tried with as many of the best last ones, as BERT's script does.
        longest: the number of tokens of the longest span.

    Returns:
        The first and the last token of each window's best span, int64, (B,) each; and its score, (B,), which is -inf
        where there is no span.
    """
    size = min(n_best, start.shape[1])
    (start_logits, first), (end_logits, last) = (
        logits.float().masked_fill(~context, -torch.inf).topk(size) for logits in (start, end)
    )
    distance = last[:, None, :] - first[:, :, None]  # (B, first, last)
    is_span = (distance >= 0) & (distance < longest)
    scores = (start_logits[:, :, None] + end_logits[:, None, :]).masked_fill(~is_span, -torch.inf).flatten(1)
    best, chosen = scores.max(dim=1)
    rows = torch.arange(len(chosen), device=chosen.device)
    return first[rows, chosen // size], last[rows, chosen % size], best


def no_answer_score(start: Tensor, end: Tensor) -> Tensor:
    """The score of no answer in each window, (B,), from logits (B, T)."""
    return start[:, NO_ANSWER].float() + end[:, NO_ANSWER].float()
