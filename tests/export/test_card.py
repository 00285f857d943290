"""The model card: its words are true of the study."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run

pytestmark = pytest.mark.integration


def test_the_card_names_the_class_of_f1(write_study: Callable[..., Path], sentiment: Path, study_folder: Path) -> None:
    shutil.copytree(sentiment, study_folder / "data")
    for file in (study_folder / "data").iterdir():
        file.write_text(file.read_text().replace(",positive", ",cancer").replace(",negative", ",not cancer"))
    path = write_study(**{'"accuracy"': '"f1"', str(sentiment): str(study_folder / "data")})
    assert run("study", "create", path).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", "1").code == 0
    assert run("study", "export", "tiny", "--trial", "0", "--to", "exported").code == 0
    card = (study_folder / "exported" / "README.md").read_text()
    assert "`quality` is f1 of the class `cancer` on the validation split" in card
    assert "| f1 of the class `cancer` on the test split |" in card
    assert "The model reads at most 64 tokens of a text, special ones among them: cut longer ones" in card
    assert "It was trained and evaluated with 32 at most." in card
