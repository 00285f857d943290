"""What is said of a base model that has learnt nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import succeed

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("is_useless", [True, False])
def test_a_base_model_that_says_the_same_of_every_text(
    is_useless: bool, study_folder: Path, write_study: Callable[..., Path]
) -> None:
    file = write_study()
    before, its = file.read_text().split("[base_training]")
    its = re.sub(r"learning_rate = .*", f"learning_rate = {1e-9 if is_useless else 1e-3}", its, count=1)
    file.write_text(
        f"{before}[base_training]{its.replace('epochs = 4', 'epochs = 4' if is_useless else 'epochs = 30')}"
    )
    succeed("study", "create", file)
    told = succeed("study", "optimize", "tiny", "--timeout", "0").err
    assert ("says the same of all 60 validation examples (accuracy 0." in told) == is_useless, told
    assert ("change [base_training]" in told) == is_useless
    assert "says the same" not in succeed("study", "optimize", "tiny", "--timeout", "0").err  # it was said
