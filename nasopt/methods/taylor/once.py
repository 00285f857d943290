"""What the Taylor method computes once for a study and keeps in its artifact folder, keyed by what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.host.files import partial_name
from nasopt.models.reconstruction import reconstruct
from nasopt.models.saliency import Reading, Saliency, saliency
from nasopt.models.vocabulary import vocabulary_of
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Examples, sorted_batches, training_batches
from nasopt.training.loop import StepCallback, autocast

VECTOR_BATCH = 64


@dataclass(frozen=True)
class SampleSettings:
    """On what something is estimated.

    Attributes:
        examples: of the training split, drawn at random; all there are if it has fewer.
        batch_size: examples of one batch.
        seed: of the draw.
    """

    examples: int
    batch_size: int
    seed: int

    def batches(self, split: Examples) -> list[Tensor]:
        """Positions in the split, in batches of about equal length."""
        generator = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(len(split), generator=generator)[: self.examples]
        return [sample[batch] for batch in training_batches(split.lengths[sample], self.batch_size, generator)]


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
    """The base model's saliency, from the file if there is one that was made from the same.

    Args:
        folder: of such files.
        identity: what the model's weights are (a checkpoint's key).
    """
    made_from = [identity, split.fingerprint, reading, settings.examples, settings.batch_size, settings.seed]
    tensors = _once(
        folder,
        "saliency",
        made_from,
        lambda: estimate_saliency(model, task, split, reading, settings, device, on_step).to_tensors(),
    )
    return Saliency.from_tensors(tensors)


def reconstruct_on(
    split: Examples,
    model: PreTrainedModel,
    base_model: PreTrainedModel,
    layers: Sequence[int],
    settings: SampleSettings,
    device: torch.device,
    on_step: StepCallback,
) -> None:
    """:func:`nasopt.models.reconstruction.reconstruct` on a sample of a split; in bf16 where that is fast."""

    def forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        with autocast(device):
            model(**inputs)

    batches = (split.batch(positions).to(device) for positions in settings.batches(split))
    inputs = [side.inputs for batch in batches for side in batch.sides]
    reconstruct(model.to(device), base_model.to(device), layers, inputs, forward=forward, on_step=on_step)


def study_vocabulary(task: Task, files: Sequence[str], *, folder: Path, fingerprint: str) -> tuple[int, ...]:
    """The tokens that the training texts and the lines of some files need.

    Args:
        files: UTF-8.
        folder: where the result is kept.
        fingerprint: of the tokenised training split.
    """
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    prefix = task.config.similarity.prefix
    made_from = [fingerprint, prefix, *lines]

    def make() -> dict[str, Tensor]:
        kept = vocabulary_of(task.tokenizer, [*task.texts_read("train"), *(prefix + line for line in lines)])
        return {"kept": torch.tensor(kept, dtype=torch.int64)}

    return tuple(_once(folder, "vocabulary", made_from, make)["kept"].tolist())


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
        identity: what the teacher's weights are, and how vectors are made.
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

    tensors = _once(folder, "vectors", [identity, split.fingerprint], make)
    return [tensors[f"side_{index}"] for index in range(len(split.sides))]


def _once(
    folder: Path, kind: str, made_from: Iterable[Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `make` gives, from its file if it has one. Workers that start together make it one after the other."""
    key = hashlib.sha256(json.dumps(list(made_from)).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}-{key}.safetensors"
    with FileLock(folder / f".{kind}.lock"):
        if not file.is_file():
            partial = folder / partial_name()
            try:
                save_file(make(), partial)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
    found: dict[str, Tensor] = load_file(file)
    return found
