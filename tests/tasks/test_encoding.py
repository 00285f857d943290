"""Tokenizers are looked at before anything is trained: one line for each that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, CanineTokenizer, PreTrainedTokenizerBase

from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.tasks.base import Task
from nasopt.tasks.opening import task_class


def open_task(model: Path, data: Path, kind: str = "text-classification", columns: int = 1) -> Task:
    """A task on the text column, taken twice for pairs."""
    dataset = {"path": str(data), "text": ["text"] * columns}
    metric = "accuracy" if kind == "text-classification" else "retrieval"
    config = TaskConfig.model_validate({"type": kind, "model": str(model), "metric": metric, "dataset": dataset})
    return task_class(config)(config)


@pytest.fixture
def model(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def without_padding(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


def with_added_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.add_tokens(["splendid"])
    tokenizer.save_pretrained(folder)


def slow(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    CanineTokenizer().save_pretrained(folder)


def gone(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def of_another_model(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    BertConfig(**{**config, "vocab_size": 1000}).save_pretrained(folder)


def damaged(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')


@pytest.mark.parametrize("kind", ["text-classification", "sentence-similarity"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_padding, "has no pad token"),
        (with_added_tokens, "has 24 tokens, but the model has embeddings of 23"),
        (slow, r"its tokenizer \(CanineTokenizer\) is a slow one"),
        (gone, "holds no tokenizer"),
        (of_another_model, "has 23 tokens, but the model has embeddings of 1000"),
        (damaged, "model '.*model': "),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_in_one_line(
    model: Path, sentiment: Path, kind: str, spoil: Callable[[Any, Path], None], message: str
) -> None:
    spoil(AutoTokenizer.from_pretrained(model), model)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        open_task(model, sentiment, kind, columns=1 if kind == "text-classification" else 2)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_safetensors_are_refused_before_anything_is_trained(model: Path, sentiment: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="reads safetensors only"):
        open_task(model, sentiment)


def without_special_tokens(model: Path) -> None:
    """Texts get no tokens beside their own."""
    document = json.loads((model / "tokenizer.json").read_text())
    document["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(document))


def write(folder: Path, rows: list[str]) -> Path:
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("columns", [1, 2])
def test_empty_texts_are_refused_where_the_tokenizer_makes_nothing_of_them(
    model: Path, tmp_path: Path, columns: int
) -> None:
    data = write(tmp_path / "data", ["good film,1", "bad,0", '"",0', "  ,1"])
    assert open_task(model, data, columns=columns).encode(tmp_path)["train"].lengths.min() > 0
    without_special_tokens(model)
    with pytest.raises(DatasetError, match=r"2 texts of the train split have no tokens .* `?text.*row 2"):
        open_task(model, data, columns=columns)


def test_texts_that_turn_out_to_have_no_tokens_are_refused_too(model: Path, tmp_path: Path) -> None:
    without_special_tokens(model)
    document = json.loads((model / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"String": "!"}, "content": ""}
    (model / "tokenizer.json").write_text(json.dumps(document))
    task = open_task(model, write(tmp_path / "data", ["good film,1", "!!,0"]))
    with pytest.raises(DatasetError, match=r"1 texts of the train split have no tokens .* row 1"):
        task.encode(tmp_path)
