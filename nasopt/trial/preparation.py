"""What a study needs before its first trial: tokenised data and a trained base model, both made once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from filelock import FileLock

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.errors import CheckpointError
from nasopt.host.files import remove_partial_files, write_atomically
from nasopt.measurement.device import working_device
from nasopt.methods.bayesian.trajectory import Trajectory, posterior_path
from nasopt.models.families import encoder_shape
from nasopt.storage.checkpoints import FOLDER as CHECKPOINTS
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.tasks.datasets import content_hash
from nasopt.tasks.opening import open_task
from nasopt.training.context import Context, PhaseCallback
from nasopt.training.loop import train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.tasks.base import Task
    from nasopt.tasks.batches import Examples


MakeRecorder: TypeAlias = "Callable[[PreTrainedModel, Path], Trajectory | None]"

BASE_RECORD = "base.json"

logger = logging.getLogger("nasopt")


def prepare(
    config: StudyConfig,
    folder: Path,
    on_phase: PhaseCallback,
    *,
    has_trials: bool,
    make_recorder: MakeRecorder = lambda model, folder: None,
) -> Context:
    """Tokenises the data and trains the base model, or finds both in the study's artifact folder.

    Args:
        config: the study's configuration.
        folder: the study's artifact folder.
        on_phase: told what is being done.
        has_trials: whether trials have been compared with the base model in the folder, so that it must stay. If not,
            one that was made from something else (for a former study of the same name) is made anew.
        make_recorder: see :meth:`nasopt.methods.base.Method.base_recorder`.

    Raises:
        ArtifactFolderError: the folder cannot be written.
        CheckpointError: the stored base model is damaged.
    """
    task = open_task(config, folder)
    checkpoints = CheckpointStore(folder / CHECKPOINTS)
    checkpoints.make_writable()
    remove_partial_files(folder)
    device = working_device()
    # Workers on this host that start together prepare one after the other; the second finds what the first made.
    with FileLock(folder / ".preparation.lock"):
        (folder / "data").mkdir(exist_ok=True)
        for partial in (folder / "data").glob("tmp*"):
            partial.unlink()  # the library `datasets` names what it writes so; a writer that was killed left it
        on_phase("tokenising", 0, 0)
        splits = task.encode(folder / "data")
        model, key = _base_model(
            config, task, splits["train"], folder, checkpoints, device, on_phase, has_trials, make_recorder
        )
    return Context(
        config=config,
        task=task,
        splits=splits,
        base_model=model,
        base_key=key,
        shape=encoder_shape(model.config),
        checkpoints=checkpoints,
        folder=folder,
        device=device,
        on_phase=on_phase,
    )


def _base_model(
    config: StudyConfig,
    task: Task,
    train_split: Examples,
    folder: Path,
    checkpoints: CheckpointStore,
    device: torch.device,
    on_phase: PhaseCallback,
    has_trials: bool,
    make_recorder: MakeRecorder,
) -> tuple[PreTrainedModel, str]:
    """The trained base model on the CPU, and its checkpoint."""
    record = folder / BASE_RECORD
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # a new head starts the same way in every study with this seed
        model = task.load_model()
    architecture = Architecture.full(encoder_shape(model.config))
    origin = _origin(config, train_split)
    made = json.loads(record.read_text()) if record.is_file() else None
    if made is not None and (has_trials or made.get("origin") == origin):
        key = made["checkpoint"]
        try:
            weights, _ = checkpoints.read(key)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; pass --rebuild to make the base model again") from None
        model.load_state_dict(weights)
        return model.eval(), key
    recorder = None
    if not task.has_head:
        recorder = make_recorder(model, folder)
        logger.info("fine-tuning the base model (%d epochs), once for this study", config.base_training.epochs)
        train(
            model,
            train_split,
            task.training_loss,
            config.base_training,
            device=device,
            seed=config.seed,
            on_step=lambda done, total: _on_base_step(recorder, on_phase, done, total),
        )
        model.to("cpu")
    key = checkpoints.write(model.state_dict(), architecture)
    if recorder is not None:
        recorder.finish(posterior_path(folder, key))
    write_atomically(record, json.dumps({"checkpoint": key, "origin": origin}))
    return model.eval(), key


def _on_base_step(recorder: Trajectory | None, on_phase: PhaseCallback, done: int, total: int) -> None:
    on_phase("base model", done, total)
    if recorder is not None:
        recorder.on_step(done, total)


def forget_damaged_base(folder: Path) -> None:
    """Lets the base model be made again if its checkpoint, in the study's artifact folder, is lost or damaged."""
    record = folder / BASE_RECORD
    if record.is_file():
        try:
            CheckpointStore(folder / CHECKPOINTS).read(json.loads(record.read_text())["checkpoint"])
        except CheckpointError:
            record.unlink()


def _origin(config: StudyConfig, train_split: Examples) -> str:
    """What a base model is made from, in one hash."""
    task = config.task
    settings = [task.model, content_hash(task.model), task.revision, task.new_head, config.seed]
    if task.new_model is not None:
        settings.append(task.new_model.model_dump_json())
    text = json.dumps([*settings, config.base_training.model_dump(mode="json"), train_split.fingerprint])
    return hashlib.sha256(text.encode()).hexdigest()
