"""The teacher's outputs on the training split: made once per study and memory-mapped, or live where they are too big.

Shapes: B texts in a batch, T tokens (padding included), H hidden units, C classes (0 for a teacher without a head).
Logits are of texts, (B, C), or of tokens, (B, T, C).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.host.files import write_atomically
from nasopt.models.outputs import logits_of
from nasopt.tasks.batches import Batch, EncodedSplit, gather_positions, sorted_batches
from nasopt.training.loop import StepCallback, autocast

CACHE_BATCH = 64
RECORD = "shape.json"
"""The file of a cache that holds its sizes and the checksums of its files."""
TOKENS = "tokens"
"""The number of tokens in that file, where logits are of tokens."""

logger = logging.getLogger("nasopt")


class Teacher(ABC):
    """Gives, for a batch of training texts, the teacher's logits and its hidden states, (layers, B, T, H)."""

    @abstractmethod
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and hidden states on the batch's device; anything finite at padding."""


class LiveTeacher(Teacher):
    """Runs the teacher on every batch, in bf16 where that is fast."""

    def __init__(self, model: nn.Module, device: torch.device, layers: Sequence[int]) -> None:
        self._model = model.to(device).eval()
        self._device = device
        self._layers = layers

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(self._device):
            logits, hidden_states = run_with_hidden(self._model, batch)
        if not self._layers:
            return logits, hidden_states[0].new_zeros((0, *hidden_states[0].shape))
        return logits, torch.stack([hidden_states[layer] for layer in self._layers])


class CachedTeacher(Teacher):
    """Reads what :func:`make_teacher` wrote: hidden states are bf16, (layers, real tokens of the split, H).

    Logits are fp32, (texts of the split, C) or (real tokens of the split, C).
    """

    def __init__(self, folder: Path, split: EncodedSplit) -> None:
        shape = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        self._offsets = split.offsets
        self._of_tokens = TOKENS in shape
        rows = split.total_tokens if self._of_tokens else len(split)
        self._logits = _map(folder / "logits.bin", torch.float32, (rows, shape["outputs"]))
        self._hidden = _map(
            folder / "hidden.bin", torch.bfloat16, (shape["layers"], split.total_tokens, shape["hidden"])
        )

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        positions, _ = gather_positions(self._offsets, batch.indices)
        device = batch.labels.device
        logits = self._logits[positions if self._of_tokens else batch.indices]
        return logits.to(device), self._hidden[:, positions].to(device)


def run_with_hidden(model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One forward pass over inputs (B, T).

    Returns:
        Logits (B, C) or (B, T, C), and hidden states (B, T, H), of the embeddings and after each layer.
    """
    outputs = model(**batch.inputs, output_hidden_states=True)
    hidden_states = outputs.hidden_states
    logits = logits_of(outputs)
    return hidden_states[0].new_zeros((len(batch.labels), 0)) if logits is None else logits, hidden_states


def make_teacher(
    model: PreTrainedModel,
    split: EncodedSplit,
    folder: Path,
    identity: str,
    *,
    num_outputs: int,
    of_tokens: bool = False,
    layers: Sequence[int] = (-1,),
    device: torch.device,
    max_bytes: int,
    on_step: StepCallback | None = None,
) -> Teacher:
    """The teacher for a training split, from the cache if one with the same content is there.

    It gives logits (B, C), or (B, T, C) if they are of tokens, and hidden states (len(layers), B, T, H) of a batch.

    Args:
        model: the teacher.
        split: the training split; its batches have inputs of shape (B, T).
        folder: where caches lie.
        identity: identifies the teacher's weights (a checkpoint's key).
        num_outputs: C, the logits of a text or of a token; 0 for a model without a head.
        of_tokens: whether there are logits of every token.
        layers: the hidden states that are wanted: 0 is the embeddings, -1 the last layer.
        device: where the teacher runs.
        max_bytes: above this the outputs are not stored and the teacher runs live.
        on_step: told the batches done, and the batches in all.
    """
    hidden_size = int(model.config.hidden_size)
    rows = split.total_tokens if of_tokens else len(split)
    if len(layers) * split.total_tokens * hidden_size * 2 + rows * num_outputs * 4 > max_bytes:
        return LiveTeacher(model, device, layers)
    content = hashlib.sha256(f"{identity} {split.fingerprint} {tuple(layers)}".encode()).hexdigest()[:16]
    cache = folder / content
    folder.mkdir(exist_ok=True)  # inside the study's, which nobody makes anew
    cache.mkdir(exist_ok=True)
    # Workers that start together fill it one after the other; the second finds what the first made.
    with FileLock(cache / ".lock"):
        sizes = {"layers": len(layers), "outputs": num_outputs, "hidden": hidden_size}
        sizes |= {TOKENS: rows} if of_tokens else {}
        if not _is_whole(cache, sizes):
            logits = _allocate(cache / "logits.bin", torch.float32, (rows, num_outputs))
            hidden = _allocate(cache / "hidden.bin", torch.bfloat16, (len(layers), split.total_tokens, hidden_size))
            _fill(LiveTeacher(model, device, layers), split, logits, hidden, device, on_step)
            # The record is written last: a cache without it was interrupted and is filled again.
            write_atomically(cache / RECORD, json.dumps({**sizes, "sha256": _checksums(cache)}))
    return CachedTeacher(cache, split)


def _is_whole(cache: Path, sizes: Mapping[str, int]) -> bool:
    """Whether a cache of these sizes is there, with the very content that was written; says so if it is damaged."""
    record = cache / RECORD
    if not record.is_file():
        return False
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    # NOTE: a file that was cut off must never be mapped: it would grow again, with zeros.
    whole = bool(stored == {**sizes, "sha256": _checksums(cache)})
    if not whole:
        logger.warning("%s: the teacher's outputs are damaged or of an earlier version; they are made again", cache)
    return whole


def _checksums(cache: Path) -> dict[str, str]:
    found = {}
    for file in sorted(cache.glob("*.bin")):
        status = file.stat()
        found[file.name] = _sha256(file, status.st_mtime_ns, status.st_size)
    return found


@lru_cache(maxsize=8)
def _sha256(file: Path, changed: int, size: int) -> str:
    """The checksum of a file, computed once as long as it is not changed: every trial asks, and it may be gigabytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fill(
    teacher: LiveTeacher,
    split: EncodedSplit,
    logits: Tensor,
    hidden: Tensor,
    device: torch.device,
    on_step: StepCallback | None,
) -> None:
    batches = sorted_batches(split.lengths, CACHE_BATCH)
    for done, indices in enumerate(batches, start=1):
        batch = split.batch(indices)
        positions, mask = gather_positions(split.offsets, indices)
        batch_logits, batch_hidden = teacher(batch.to(device))
        if batch_logits.ndim == 3:
            logits[positions[mask]] = batch_logits.float().cpu()[mask]
        else:
            logits[indices] = batch_logits.float().cpu()
        hidden[:, positions[mask]] = batch_hidden.cpu()[:, mask].to(torch.bfloat16)
        if on_step is not None:
            on_step(done, len(batches))


def _allocate(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Creates the file with its disk space, and maps it.

    Raises:
        OSError: the disk is too full; nothing is left of the file.
    """
    # NOTE: where a disk fills up under a mapped file with holes, the process is killed (SIGBUS) instead of told.
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape) * dtype.itemsize))
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return _map(path, dtype, shape)


def _map(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor of `shape` whose memory is the file (created if need be)."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
