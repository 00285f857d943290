"""The best span against trying all of them."""

from __future__ import annotations

import pytest
import torch

from nasopt.tasks.spans import best_spans, no_answer_score


@pytest.mark.parametrize(("n_best", "longest"), [(12, 30), (12, 2), (3, 30), (1, 30), (50, 4)])
def test_it_is_the_best_of_all_that_the_limits_allow(n_best: int, longest: int) -> None:
    start, end = torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(0))
    context = torch.rand(40, 12, generator=torch.Generator().manual_seed(1)) < 0.7
    context[0] = False
    first, last, score = best_spans(start, end, context, n_best, longest)
    nothing = 0
    for row in range(40):
        inside = context[row].nonzero().flatten().tolist()
        firsts = sorted(inside, key=lambda place: -start[row, place])[:n_best]
        lasts = sorted(inside, key=lambda place: -end[row, place])[:n_best]
        spans = [(a, b) for a in firsts for b in lasts if a <= b < a + longest]
        if not spans:
            nothing += 1
            assert score[row] == -torch.inf
            continue
        best = max(spans, key=lambda span: start[row, span[0]] + end[row, span[1]])
        assert (int(first[row]), int(last[row])) == best
        assert score[row] == start[row, best[0]] + end[row, best[1]]
    assert nothing >= 1


def test_no_answer_is_the_first_token() -> None:
    assert no_answer_score(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 7.0]])).tolist() == [3.0]
