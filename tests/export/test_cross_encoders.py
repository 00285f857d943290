"""Exported rerankers in sentence-transformers: the scores are those that were evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS, write_rankings

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.task import TaskConfig
from nasopt.export.folder import export_hf
from nasopt.models.surgery import cut
from nasopt.tasks.reranking import Reranking

pytestmark = pytest.mark.integration

PAIRS = [("good film", "bad plot"), ("sad", " ".join([*WORDS, *FILLERS] * 2)), ("fine story", "fine")]
FULL = Architecture((KeptUnits((0, 1, 2, 3), tuple(range(128))),) * 3)
IRREGULAR = Architecture((KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((), tuple(range(128)))))


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rankings(tmp_path_factory.mktemp("rankings"), {"train": 4, "validation": 4})


def export(model: Path, data: Path, to: Path, architecture: Architecture = FULL, **keys: Any) -> np.ndarray:
    """Exports a cut reranker, and returns the scores of some pairs as a study computes them, (pairs,)."""
    dataset = {"path": str(data), "text": ["query", "passage"]}
    settings = {"model": str(model), "kind": "reranking", "metric": "mrr@10", "max_length": 12, "dataset": dataset}
    task = Reranking(TaskConfig.model_validate({**settings, **keys}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        artifact = cut(task.load_model(), architecture).eval()
    with torch.no_grad():
        artifact.classifier.weight.mul_(40)  # scores that differ
    export_hf(artifact, task.tokenizer, architecture, to, card="", beside=task.folder_files)
    encoded = task.tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, max_length=12)
    with torch.inference_mode():
        return artifact(**encoded.convert_to_tensors("pt")).logits[:, 0].numpy()


@pytest.mark.parametrize("architecture", [FULL, IRREGULAR], ids=["full", "irregular"])
def test_the_scores_are_those_that_were_evaluated(
    tiny_bert: Path, rankings: Path, tmp_path: Path, architecture: Architecture
) -> None:
    from sentence_transformers import CrossEncoder

    expected = export(tiny_bert, rankings, tmp_path / "out", architecture, new_head=True)
    assert np.ptp(expected) > 1e-3
    model = CrossEncoder(str(tmp_path / "out"), device="cpu", trust_remote_code=architecture is IRREGULAR)
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn=torch.nn.Identity()), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(PAIRS), 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_a_cross_encoder_is_taken_as_it_is(tiny_bert: Path, rankings: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu", activation_fn=torch.nn.Tanh(), max_length=12)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    export(tmp_path / "theirs", rankings, tmp_path / "ours")
    again = CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert isinstance(again.activation_fn, torch.nn.Tanh)
    theirs.model.classifier.weight.data.mul_(40)
    np.testing.assert_allclose(again.predict(PAIRS), theirs.predict(PAIRS), atol=1e-5)
