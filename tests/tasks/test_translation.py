"""Translation with a tiny new encoder-decoder: data, training, BLEU, generation that is timed, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_pairs
from outside_models import write_student
from torch.nn import functional

from nasopt.architecture.outside import OutsideModel
from nasopt.config.study import TrainingConfig
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.models.outside import outside_architecture
from nasopt.tasks.batches import PairedSplit
from nasopt.tasks.translation import IGNORED, Generation, Translation, decoder_inputs, labels_of
from nasopt.training.loop import train

CPU = torch.device("cpu")
WORDS = {
    "open": "а", "close": "б", "file": "в", "menu": "г", "window": "д", "print": "е", "save": "ж", "help": "з",
}  # fmt: skip
NEW = {
    "encoder_layers": 1, "decoder_layers": 2, "hidden_size": 32, "heads": 2, "ffn_size": 64, "vocabulary": 100,
    "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), {"train": 200, "validation": 30}, WORDS, longest=4)


def task_config(data: Path, **changes: Any) -> TaskConfig:
    config = {
        "type": "translation", "model": "m2m_100", "metric": "bleu", "max_length": 16, "new_model": NEW,
        "translation": {"max_new_tokens": 8, "latency_tokens": 5, "label_smoothing": 0.1},
        "dataset": {"path": str(data), "text": ["first", "second"]},
    }  # fmt: skip
    return TaskConfig.model_validate({**config, **changes})


@pytest.mark.integration
def test_a_new_model_learns_to_translate(pairs: Path, tmp_path: Path) -> None:
    task = Translation(task_config(pairs))
    splits = task.encode(tmp_path)
    assert splits["validation"].references[0] == (pairs / "validation.csv").read_text().splitlines()[1].split(",")[1]
    torch.manual_seed(0)
    model = task.load_model()
    settings = TrainingConfig(epochs=40, batch_size=20, learning_rate=5e-3)
    train(model, splits["train"], task.training_loss, settings, device=CPU, seed=0)
    found = task.evaluate(model, splits["validation"], CPU)
    assert found.quality > 60
    assert found.replicates is not None
    assert found.replicates[0] == found.quality
    assert found.details["signature"]
    beams = task.translate(model, splits["validation"], CPU, beams=3)
    greedy = task.translate(model, splits["validation"], CPU, beams=1)
    assert np.mean([mine == other for mine, other in zip(beams, greedy, strict=True)]) > 0.5


def test_the_loss_is_the_smoothed_cross_entropy_of_the_target_tokens(pairs: Path, tmp_path: Path) -> None:
    task = Translation(task_config(pairs))
    model = task.load_model().eval()
    batch = task.encode(tmp_path)["train"].batch(torch.arange(5))
    labels = labels_of(batch)
    with torch.no_grad():
        logits = model(**batch.first.inputs, labels=labels).logits  # transformers shifts by itself
        mine = task.training_loss(model, batch).item()
    real = labels != IGNORED
    logs = functional.log_softmax(logits[real], dim=-1)
    nll = -logs.gather(1, labels[real][:, None]).squeeze(1)
    expected = (0.9 * nll - 0.1 * logs.mean(dim=1)).mean().item()
    assert mine == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model_type", ["m2m_100", "bart", "marian"])
def test_the_decoder_reads_what_its_family_has_it_read(model_type: str, pairs: Path, tmp_path: Path) -> None:
    task = Translation(task_config(pairs, model=model_type))
    model = task.load_model().eval()
    batch = task.encode(tmp_path)["train"].batch(torch.arange(4))
    labels = labels_of(batch)
    with torch.no_grad():
        by_the_model = model(**batch.first.inputs, labels=labels).logits
        ours = model(**batch.first.inputs, decoder_input_ids=decoder_inputs(model, labels)).logits
    real = labels != IGNORED
    assert torch.allclose(by_the_model[real], ours[real], atol=1e-6)


def test_the_timed_workload_generates_as_many_tokens_as_it_should(pairs: Path) -> None:
    task = Translation(task_config(pairs))
    model = task.load_model().eval()
    workload = task.workload(model)
    assert isinstance(workload, Generation)
    tokens = torch.randint(4, 50, (3, 7))
    with torch.inference_mode():
        generated = workload(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        for steps in (2, 5):  # greedy, token by token, without a cache
            text = torch.full((3, 1), model.config.decoder_start_token_id)
            for _ in range(steps):
                logits = model(input_ids=tokens, decoder_input_ids=text, use_cache=False).logits[:, -1]
                logits[:, model.config.eos_token_id] = -torch.inf
                text = torch.cat([text, logits.argmax(dim=-1, keepdim=True)], dim=1)
    assert generated.shape == (3, 6)
    assert torch.equal(generated, text)


def test_a_trained_tokenizer_is_kept_in_the_study_s_folder(pairs: Path, tmp_path: Path) -> None:
    first = Translation(task_config(pairs), tmp_path)
    (kept,) = (tmp_path / "data").iterdir()
    before = kept.stat().st_mtime_ns
    second = Translation(task_config(pairs), tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert second.encode(tmp_path)["train"].fingerprint == first.encode(tmp_path)["train"].fingerprint


def test_pairs_keep_their_halves_together(pairs: Path, tmp_path: Path) -> None:
    split = Translation(task_config(pairs)).encode(tmp_path)["train"]
    assert isinstance(split, PairedSplit)
    batch = split.batch(torch.tensor([5, 2]))
    assert batch.indices.tolist() == [5, 2]
    for position, example in enumerate((5, 2)):
        for side, whole in zip(batch.sides, split.sides, strict=True):
            start, end = whole.offsets[example], whole.offsets[example + 1]
            real = side.inputs["input_ids"][position][side.attention_mask[position] == 1]
            assert torch.equal(real, whole.columns["input_ids"][start:end].long())
    assert torch.equal(split.lengths, split.first.lengths + split.second.lengths)


def test_an_empty_half_is_named_with_its_row(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", {"train": 5, "validation": 5}, WORDS)
    rows = (folder / "train.csv").read_text().splitlines()
    rows[3] = "open,"
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DatasetError, match=r"train.* 1 .*`second`.*row 2"):
        Translation(task_config(folder))


def test_an_encoder_does_not_translate(tiny_bert: Path, pairs: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="needs an encoder-decoder"):
        Translation(task_config(pairs, model=str(tiny_bert), new_model=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "is not one of translation: bleu"),
        ({"model": "gpt2"}, "one of m2m_100, bart, marian"),
        ({"dataset": {"path": "x", "text": ["en"]}}, "needs two columns"),
        ({"similarity": {"prefix": "query: "}}, r"\[task.similarity\] is for the type sentence-similarity"),
        ({"type": "text-classification", "metric": "accuracy", "translation": {}}, "for the type translation"),
    ],
)
def test_a_task_table_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_config(Path("x"), **changes)


def test_a_model_from_outside_reads_the_same_texts_with_its_own_tokens(pairs: Path, tmp_path: Path) -> None:
    study = Translation(task_config(pairs))
    smaller = Translation(task_config(pairs, new_model={**NEW, "decoder_layers": 1, "vocabulary": 110}))
    smaller.load_model().save_pretrained(tmp_path / "model")
    smaller.tokenizer.save_pretrained(tmp_path / "model")
    task = study.for_model(OutsideModel(str(tmp_path / "model")))
    assert task.has_head
    assert task.encode(tmp_path)["validation"].references == study.encode(tmp_path)["validation"].references
    assert outside_architecture(task.load_model(), OutsideModel("m")).layers == ((2, 64),)
    with pytest.raises(UnsupportedModelError, match="translation needs an encoder-decoder"):
        study.for_model(OutsideModel(str(write_student(tmp_path / "student"))))
