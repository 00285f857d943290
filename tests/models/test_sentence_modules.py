"""The settings in folders of sentence-transformers, in every form that they have had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasopt.errors import UnsupportedModelError
from nasopt.models.sentence_modules import SentenceModules, sentence_modules


def write(folder: Path, pooling: dict[str, Any], *others: str, listed: bool = True) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **pooling}))
    for name in others:
        (folder / name).mkdir()
    if listed:
        kinds = {"": "Transformer", "1_Pooling": "Pooling"} | {name: name.partition("_")[2] for name in others}
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({}, None),
    ],
)
def test_the_pooling_is_read(tmp_path: Path, listed: bool, settings: dict[str, Any], pooling: str | None) -> None:
    write(tmp_path, settings, "2_Normalize", listed=listed)
    assert sentence_modules(str(tmp_path), None) == SentenceModules(pooling)


@pytest.mark.parametrize("listed", [True, False])
def test_other_modules_are_named(tmp_path: Path, listed: bool) -> None:
    write(tmp_path, {"pooling_mode_cls_token": True}, "2_Dense", "3_Normalize", listed=listed)
    assert sentence_modules(str(tmp_path), None) == SentenceModules("cls", ("2_Dense",))


def test_a_plain_encoder_says_nothing(tiny_bert: Path) -> None:
    assert sentence_modules(str(tiny_bert), None) == SentenceModules()


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]"])
def test_a_damaged_list_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match=r"modules\.json is (damaged|not a list of modules)"):
        sentence_modules(str(tmp_path), None)
