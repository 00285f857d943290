"""The estimates of the Taylor method: saliencies, the tokens that are needed, and its teacher's vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.models.saliency import Reading, Saliency, saliency
from nasopt.models.vocabulary import vocabulary_of
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Examples, sorted_batches
from nasopt.training.loop import StepCallback, autocast
from nasopt.training.made_once import made_once
from nasopt.training.samples import SampleSettings

VECTOR_BATCH = 64


def estimate_saliency(
    model: PreTrainedModel,
    task: Task,
    split: Examples,
    reading: Reading,
    settings: SampleSettings,
    device: torch.device,
    on_step: StepCallback,
) -> Saliency:
    """The saliency of a model's units for the task's loss on a sample of a split; in bf16 where that is fast."""
    positions = settings.batches(split)

    def batches() -> Iterator[Any]:
        for done, indices in enumerate(positions, start=1):
            yield split.batch(indices).to(device)
            on_step(done, len(positions))

    def loss(model: PreTrainedModel, batch: Any) -> Tensor:
        with autocast(device):
            return task.training_loss(model, batch)

    return saliency(model, batches(), loss, reading=reading, device=device)


def study_saliency(
    model: PreTrainedModel,
    task: Task,
    split: Examples,
    reading: Reading,
    settings: SampleSettings,
    *,
    folder: Path,
    identity: str,
    device: torch.device,
    on_step: StepCallback,
) -> Saliency:
    """The base model's saliency, read from a file if there is one made from the same weights, examples and settings.

    Args:
        folder: holds such files.
        identity: identifies the model's weights (a checkpoint's key).
    """
    made_from = [identity, split.fingerprint, reading, settings.examples, settings.batch_size, settings.seed]
    tensors = made_once(
        folder,
        "saliency",
        made_from,
        lambda: estimate_saliency(model, task, split, reading, settings, device, on_step).to_tensors(),
    )
    return Saliency.from_tensors(tensors)


def study_vocabulary(task: Task, files: Sequence[str], *, folder: Path, fingerprint: str) -> tuple[int, ...]:
    """The tokens that the training texts and the lines of some files need.

    Args:
        files: UTF-8 text files.
        folder: where the result is kept.
        fingerprint: identifies the tokenised training split.
    """
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    prefixes = tuple(dict.fromkeys(task.prefixes))
    made_from = [fingerprint, *prefixes, *lines]

    def make() -> dict[str, Tensor]:
        own = (prefix + line for prefix in prefixes for line in lines)
        kept = vocabulary_of(task.tokenizer, [*task.texts_read("train"), *own])
        return {"kept": torch.tensor(kept, dtype=torch.int64)}

    return tuple(made_once(folder, "vocabulary", made_from, make)["kept"].tolist())


def teacher_vectors(
    model: PreTrainedModel,
    split: Examples,
    vectors: Callable[[Sequence[Any], Any], Sequence[Tensor]],
    run: Callable[[PreTrainedModel, Any], Sequence[Any]],
    *,
    folder: Path,
    identity: str,
    device: torch.device,
    on_step: StepCallback,
) -> list[Tensor]:
    """The teacher's vectors of a split's texts, a tensor (examples, hidden) for each side; in bf16 where that is fast.

    Args:
        model: the teacher.
        vectors: (outputs, batch) -> the vectors of each side, (batch, hidden).
        run: (model, batch) -> outputs.
        folder: where they are kept.
        identity: identifies the teacher's weights, and how vectors are made.
    """

    @torch.no_grad()
    def make() -> dict[str, Tensor]:
        model.to(device).eval()
        found = [torch.empty(len(split), int(model.config.hidden_size)) for _ in split.sides]
        batches = sorted_batches(split.lengths, VECTOR_BATCH)
        for done, indices in enumerate(batches, start=1):
            batch = split.batch(indices).to(device)
            with autocast(device):
                outputs = run(model, batch)
            for side, values in zip(found, vectors(outputs, batch), strict=True):
                side[indices] = values.float().cpu()
            on_step(done, len(batches))
        return {f"side_{index}": values for index, values in enumerate(found)}

    tensors = made_once(folder, "vectors", [identity, split.fingerprint], make)
    return [tensors[f"side_{index}"] for index in range(len(split.sides))]
