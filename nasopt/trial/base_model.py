"""The base model of a study: trained once, and found again by what it was made from."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.errors import CheckpointError, MachineError
from nasopt.host.files import check_room, write_atomically
from nasopt.host.object_store import refresh, remove
from nasopt.methods.base import BaseObserver
from nasopt.models.families import encoder_shape
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.tasks.datasets import content_hash
from nasopt.training.context import PhaseCallback
from nasopt.training.loop import train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.tasks.base import Task
    from nasopt.tasks.batches import Examples

MakeObserver: TypeAlias = "Callable[[PreTrainedModel, Path], BaseObserver | None]"

RECORD = "base.json"
"""The file in a study's artifact folder that names the base model's checkpoint and has a hash of its origins."""

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class BaseModel:
    """The base model of a study: the parts that it is made from, and the place where it is kept.

    Attributes:
        config: the study's configuration.
        task: gives the model as it comes, and the loss.
        train_split: the tokenised training data.
        folder: the study's artifact folder.
        checkpoints: the store of its weights.
    """

    config: StudyConfig
    task: Task
    train_split: Examples
    folder: Path
    checkpoints: CheckpointStore

    def stored(self, must_stay: bool) -> tuple[PreTrainedModel, str] | None:
        """The model that was made before, with its checkpoint; None if there is none.

        Args:
            must_stay: take it even if it was made from something else.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            made = _read_record(self.folder)
            if made is None or not (must_stay or made.origin == self._origin()):
                return None
            weights, _ = self.checkpoints.read(made.checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; pass --rebuild to make the base model again") from None
        model = self._loaded()
        try:
            model.load_state_dict(weights)
        except RuntimeError:
            raise CheckpointError(
                f"{self.folder / RECORD}: names the checkpoint of another model; delete this file and pass --rebuild "
                "to make the base model again"
            ) from None
        return model.eval(), made.checkpoint

    def trained(
        self,
        device: torch.device,
        on_phase: PhaseCallback,
        make_observer: MakeObserver,
        is_lost: Callable[[], bool] = lambda: False,
    ) -> tuple[PreTrainedModel, str]:
        """Trains the model, where it does not come trained, and stores it; on the CPU, with its checkpoint.

        Args:
            device: where it is trained.
            on_phase: told the steps.
            make_observer: see :meth:`nasopt.methods.base.Method.observer`.
            is_lost: whether another process has taken this one for dead, and trains the model itself.

        Raises:
            MachineError: the disk has no room for it; or another process trains it now.
        """
        model, observer = self._loaded(), None
        check_room(self.folder, sum(tensor.nbytes for tensor in model.state_dict().values()))
        if not self.task.has_head or self.config.task.train_base:
            observer = make_observer(model, self.folder)
            epochs = self.config.base_training.epochs
            logger.info("fine-tuning the base model (%d epochs), once for this study", epochs)

            def on_step(done: int, total: int) -> None:
                on_phase("base model", done, total)
                if observer is not None:
                    observer.on_step(done, total)

            train(
                model,
                self.train_split,
                self.task.training_loss,
                self.config.base_training,
                device=device,
                seed=self.config.seed,
                on_step=on_step,
            )
            model.to("cpu")
        if is_lost():
            raise MachineError(
                "this process stood still while it made the base model, and another has taken over: run the command "
                "again"
            )
        key = self.checkpoints.write(model.state_dict(), Architecture.full(encoder_shape(model.config)))
        if observer is not None:
            observer.finish(key)
        write_atomically(self.folder / RECORD, json.dumps({"checkpoint": key, "origin": self._origin()}))
        return model.eval(), key

    def _loaded(self) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)  # a new head starts the same way in every study with this seed
            return self.task.load_model()

    def _origin(self) -> str:
        """One hash over all that the model is made from."""
        config, task = self.config, self.config.task
        settings = [task.model, content_hash(task.model), task.revision, task.new_head, config.seed]
        if task.new_model is not None:
            settings.append(task.new_model.model_dump_json())
        if task.train_base:
            settings.append("trained further")
        training = config.base_training.model_dump(mode="json")
        text = json.dumps([*settings, training, self.train_split.fingerprint])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Made:
    """The content of :data:`RECORD`."""

    checkpoint: str
    origin: str


def _read_record(folder: Path) -> _Made | None:
    """The record of the base model in a study's artifact folder; None if there is none.

    Raises:
        CheckpointError: the record is damaged.
    """
    record = folder / RECORD
    if not refresh(record):
        return None
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        made = _Made(str(document["checkpoint"]), str(document["origin"]))
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{record}: the record of the base model is damaged") from None
    if re.fullmatch("[0-9a-f]{64}", made.checkpoint) is None:
        raise CheckpointError(f"{record}: the record of the base model is damaged (it names no checkpoint)")
    return made


def forget_damaged_base(folder: Path, checkpoints: CheckpointStore) -> None:
    """Lets the base model be made again if its record or checkpoint, in an artifact folder, is damaged."""
    try:
        made = _read_record(folder)
        if made is not None:
            checkpoints.read(made.checkpoint)
    except CheckpointError:
        remove(folder / RECORD)
