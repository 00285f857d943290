from __future__ import annotations

import pytest

from nasopt.models.architecture import Architecture, EncoderShape


def test_a_mask_of_another_length_is_refused() -> None:
    shape = EncoderShape(3, 4, 128, 32)
    with pytest.raises(ValueError, match=r"\[1, 1\] must have 3 bits"):
        Architecture.masked(shape, [1, 1])
    with pytest.raises(ValueError, match="keeps no layer"):
        Architecture.masked(shape, [0, 0, 0])
    assert Architecture.masked(shape, [1, 0, 1]).kept_layers == (0, 2)
