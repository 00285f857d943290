"""The teacher: cached and live give the same outputs, whatever the batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification

from nasopt.tasks.batches import EncodedSplit, training_batches
from nasopt.training.teacher import CachedTeacher, LiveTeacher, make_teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 20, (150,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    flat = torch.randint(1, 50, (int(offsets[-1]),), generator=generator, dtype=torch.int32)
    return EncodedSplit({"input_ids": flat}, {"input_ids": 0}, offsets, torch.zeros(150, dtype=torch.int64))


def make(model: BertForSequenceClassification, split: EncodedSplit, folder: Path, **options: object):  # type: ignore[no-untyped-def]
    arguments = {"identity": "a", "num_outputs": 3, "device": CPU, "max_bytes": 10**8, **options}
    return make_teacher(model, split, folder, **arguments)  # type: ignore[arg-type]


def test_cached_outputs_are_those_of_the_live_teacher(
    teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path
) -> None:
    cached = make(teacher, split, tmp_path)
    assert isinstance(cached, CachedTeacher)
    live = LiveTeacher(teacher, CPU, (-1,))
    for indices in training_batches(split.lengths, 16, torch.Generator().manual_seed(1)):
        batch = split.batch(indices)
        mask = batch.attention_mask.bool()
        (logits, (hidden,)), (live_logits, (live_hidden,)) = cached(batch), live(batch)
        assert hidden.shape == live_hidden.shape
        assert torch.allclose(logits, live_logits.float(), atol=0.03)
        assert torch.allclose(hidden[mask].float(), live_hidden[mask].float(), atol=0.06)
        assert torch.isfinite(hidden).all()


def test_logits_of_tokens_are_cached_for_every_real_token(
    teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path
) -> None:
    tagger = BertForTokenClassification(teacher.config).eval()
    exact = split.total_tokens * 32 * 2 + split.total_tokens * 3 * 4
    assert isinstance(make(tagger, split, tmp_path, of_tokens=True, max_bytes=exact - 1), LiveTeacher)
    cached = make(tagger, split, tmp_path, of_tokens=True, max_bytes=exact)
    assert isinstance(cached, CachedTeacher)
    live = LiveTeacher(tagger, CPU, (-1,))
    for indices in training_batches(split.lengths, 16, torch.Generator().manual_seed(1)):
        batch = split.batch(indices)
        mask = batch.attention_mask.bool()
        logits, expected = cached(batch)[0], live(batch)[0].float()
        assert logits.shape == expected.shape == (*mask.shape, 3)
        assert torch.allclose(logits[mask], expected[mask], atol=0.03)
        assert torch.isfinite(logits).all()
    steps: list[tuple[int, int]] = []
    make(tagger, split, tmp_path, of_tokens=True, on_step=lambda *step: steps.append(step))
    assert steps == []


def test_the_logits_of_both_ends_are_outputs_of_each_token(
    teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path
) -> None:
    config = BertConfig.from_dict({**teacher.config.to_dict(), "num_labels": 2})
    finder, batch = BertForQuestionAnswering(config).eval(), split.batch(torch.arange(9))
    mask = batch.attention_mask.bool()
    logits, _ = make(finder, split, tmp_path, of_tokens=True, num_outputs=2)(batch)
    with torch.inference_mode():
        outputs = finder(**batch.inputs)
    assert torch.allclose(logits[mask][:, 0], outputs.start_logits[mask], atol=0.03)
    assert torch.allclose(logits[mask][:, 1], outputs.end_logits[mask], atol=0.03)


def test_the_teacher_runs_once(teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    make(teacher, split, tmp_path, on_step=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    make(teacher, split, tmp_path, on_step=lambda *step: steps.append(step))
    assert len(steps) == 3


def test_another_teacher_or_other_data_have_their_own_cache(
    teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path
) -> None:
    make(teacher, split, tmp_path)
    make(teacher, split, tmp_path, identity="b")
    changed = EncodedSplit(split.columns, split.padding, split.offsets, split.labels + 1)
    make(teacher, changed, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_cache_is_filled_again(
    teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(teacher, split, tmp_path, on_step=interrupt)
    cached = make(teacher, split, tmp_path)
    batch = split.batch(torch.arange(150))
    assert torch.allclose(cached(batch)[0], LiveTeacher(teacher, CPU, (-1,))(batch)[0].float(), atol=0.03)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zeros_in_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_off, zeros_in_the_middle, Path.unlink])
@pytest.mark.parametrize("name", ["logits.bin", "hidden.bin", "shape.json"])
def test_a_damaged_cache_is_filled_again(
    teacher: BertForSequenceClassification,
    split: EncodedSplit,
    tmp_path: Path,
    damage: Callable[[Path], None],
    name: str,
) -> None:
    batch = split.batch(torch.arange(150))
    mask = batch.attention_mask.bool()
    logits, hidden = (tensor.clone() for tensor in make(teacher, split, tmp_path)(batch))
    (cache,) = tmp_path.iterdir()
    damage(cache / name)
    again = make(teacher, split, tmp_path)(batch)
    assert torch.equal(again[0], logits)
    assert torch.equal(again[1][:, mask], hidden[:, mask])
    steps: list[tuple[int, int]] = []
    make(teacher, split, tmp_path, on_step=lambda *step: steps.append(step))
    assert steps == []


def test_above_the_cap_nothing_is_stored(
    teacher: BertForSequenceClassification, split: EncodedSplit, tmp_path: Path
) -> None:
    exact = split.total_tokens * 32 * 2 + len(split) * 3 * 4
    assert isinstance(make(teacher, split, tmp_path, max_bytes=exact - 1), LiveTeacher)
    assert not list(tmp_path.iterdir())
    assert isinstance(make(teacher, split, tmp_path, max_bytes=exact), CachedTeacher)
