from __future__ import annotations

from dataclasses import replace

import pytest

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture


def test_a_mask_of_another_length_is_refused() -> None:
    shape = EncoderShape(3, 4, 128, 32)
    with pytest.raises(ValueError, match=r"\[1, 1\] must have 3 bits"):
        Architecture.masked(shape, [1, 1])
    with pytest.raises(ValueError, match="keeps no layer"):
        Architecture.masked(shape, [0, 0, 0])
    assert Architecture.masked(shape, [1, 0, 1]).kept_layers == (0, 2)


def test_a_cut_vocabulary_is_part_of_the_shape() -> None:
    shape = EncoderShape(2, 4, 128, 32)
    full = Architecture.full(shape)
    cut = replace(full, vocabulary=(0, 1, 2, 7, 9))
    assert '"vocabulary":"0-2,7,9"' in cut.to_json()
    assert "vocabulary" not in full.to_json()
    assert Architecture.from_json(cut.to_json()) == cut
    assert Architecture.from_json(full.to_json()) == full
    assert full.contains(cut)
    assert not cut.contains(full)
    assert cut.contains(replace(full, vocabulary=(2, 9)))
    assert not cut.contains(replace(full, vocabulary=(2, 3)))
    assert cut.with_precision("bf16").vocabulary == cut.vocabulary
    assert cut.brief().endswith(", 5 tokens")
    assert cut.in_words(shape).endswith(", 5 tokens")
    assert cut.table(shape)[1][-1] == ["vocabulary", "5 tokens", "-"]
    assert cut.summary(shape)["vocabulary"] == 5
    assert "vocabulary" not in full.summary(shape)
