"""The record of sensitivities, which survives a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.sensitivity.values import BlockSensitivity, Sensitivity

HEADS = BlockSensitivity((2, 0, 1), 1, (3.0, 2.0, 1.0), (1.0, 0.5, 1 / 6, 0.0))
EMPTY = BlockSensitivity((), 1, (), (0.0,))
NEURONS = BlockSensitivity((5, 1, 4, 0, 3, 2), 4, (0.1, 0.3), (1.0, 1 / 3, 0.0))
SENSITIVITY = Sensitivity((HEADS, EMPTY), (NEURONS, NEURONS))


def test_there_and_back(tmp_path: Path) -> None:
    save_file(SENSITIVITY.to_tensors(), tmp_path / "kept.safetensors")
    assert Sensitivity.from_tensors(load_file(tmp_path / "kept.safetensors")) == SENSITIVITY


def test_counts_become_an_architecture() -> None:
    assert SENSITIVITY.blocks == [HEADS, NEURONS, EMPTY, NEURONS]
    assert SENSITIVITY.architecture([2, 1, 0, 2]) == Architecture(
        (KeptUnits((0, 2), (0, 1, 4, 5)), KeptUnits((), (0, 1, 2, 3, 4, 5)))
    )
    assert SENSITIVITY.architecture([0, 0, 0, 0]).layers == (KeptUnits((), ()), KeptUnits((), ()))
    with pytest.raises(ValueError, match="4 of 3 units"):
        SENSITIVITY.architecture([4, 1, 0, 2])


def test_a_cut_model_keeps_the_base_models_numbers() -> None:
    current = Architecture(
        (KeptUnits((1, 5, 7), (10, 11, 12, 13, 14, 15)), None, KeptUnits((), (0, 2, 4, 6, 8, 20))), vocabulary=(0, 3)
    )
    chosen = SENSITIVITY.architecture([2, 1, 0, 1], current)
    assert chosen == Architecture(
        (KeptUnits((1, 7), (10, 11, 14, 15)), None, KeptUnits((), (0, 2, 8, 20))), vocabulary=(0, 3)
    )
    assert current.contains(chosen)


def test_expected_losses_are_weighted_by_the_block() -> None:
    assert NEURONS.expected_losses == pytest.approx((0.4, 0.4 / 3, 0.0))
