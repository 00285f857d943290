"""Exported sentence encoders in MTEB, by the code that docs/tasks.md shows: the scores are a study's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FILLERS, WORDS, write_collection
from pages import ROOT, fences

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.task import TaskConfig
from nasopt.export.folder import export_hf
from nasopt.models.surgery import cut
from nasopt.tasks.base import Evaluation
from nasopt.tasks.opening import task_class

pytestmark = pytest.mark.integration
pytest.importorskip("mteb", reason="the package mteb is not installed")

SMALLER = Architecture((KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((0, 2), tuple(range(64)))))
SHOWN = [
    text for language, text in fences(ROOT / "docs" / "tasks.md") if language == "python" and "import mteb" in text
]
BEIR = {"path": "scifact", "query_prefix": "was ", "passage_prefix": "it "}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data that the shown code reads."""
    generator = random.Random(0)

    def text(words: Any, count: int) -> str:
        return " ".join(generator.choices(list(words), k=count))

    (tmp_path / "pairs").mkdir()
    for split in ("train", "validation", "test"):
        rows = [f"{text(WORDS, 3)},{text(FILLERS, 3)},{5 * generator.random():.3f}" for _ in range(80)]
        (tmp_path / "pairs" / f"{split}.csv").write_text("\n".join(["first,second,score", *rows]) + "\n")
    passages = {f"p{row}": ("a title" * (row % 2), text([*FILLERS, *WORDS], 5)) for row in range(60)}
    queries = {f"q{row}": text(WORDS, 3) for row in range(20)}
    chosen = {key: generator.sample(list(passages), 8) for key in queries}
    judged = [(key, passage, generator.choice([1, 2])) for key, its in chosen.items() for passage in its]
    write_collection(tmp_path / "scifact", passages, queries, {"validation": judged, "test": judged})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(model: Path, home: Path, dimension: int | None, **keys: Any) -> Evaluation:
    """Exports a smaller model to the folder `exported`, and returns what a study says of it on the test split."""
    splits = {"train": "train", "validation": "validation", "test": "test"}
    dataset = {"path": "pairs", "text": ["first", "second"], "label": "score", "splits": splits}
    document = {"type": "sentence-similarity", "model": str(model), "max_length": 12, "dataset": dataset, **keys}
    config = TaskConfig.model_validate(document)
    task = task_class(config)(config)
    assert task.embedding is not None
    task = task if dimension is None else task.embedding.cut_to(dimension)
    small = cut(task.load_model(), SMALLER).eval()
    options = {"beside": task.folder_files, "dimension": dimension}
    export_hf(small, task.tokenizer, SMALLER, home / "exported", card="", **options)
    return task.evaluate(small, task.encode(home / "encoded")["test"], torch.device("cpu"))


@pytest.mark.parametrize("dimension", [None, 12])
@pytest.mark.parametrize(
    ("code", "keys", "rounded"),
    [
        (SHOWN[0], {"metric": "spearmanr", "similarity": {"prefix": "it "}}, 1e-6),
        (SHOWN[1], {"metric": "ndcg@10", "retrieval": BEIR}, 1e-5),
    ],
    ids=["pairs", "search"],
)
def test_the_main_score_is_the_study_s_quality(
    tiny_bert: Path, home: Path, code: str, keys: dict[str, Any], rounded: float, dimension: int | None
) -> None:
    expected = export(tiny_bert, home, dimension, **keys).quality
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    assert names["found"].task_results[0].get_score() == pytest.approx(expected, abs=rounded)
