"""Prepares a study for its first trial: tokenised data and a trained base model, both made once."""

from __future__ import annotations

from pathlib import Path

from nasopt.config.study import StudyConfig
from nasopt.host.files import lock_in, remove_partial_files
from nasopt.measurement.device import working_device
from nasopt.models.families import encoder_shape
from nasopt.storage.checkpoints import FOLDER as CHECKPOINTS
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.tasks.opening import open_task
from nasopt.training.context import Context, PhaseCallback
from nasopt.trial.base_model import BaseModel, MakeObserver


def prepare(
    config: StudyConfig,
    folder: Path,
    on_phase: PhaseCallback,
    *,
    has_trials: bool,
    make_observer: MakeObserver = lambda model, folder: None,
) -> Context:
    """Tokenises the data and trains the base model, or finds both in the study's artifact folder.

    Args:
        config: the study's configuration.
        folder: the study's artifact folder.
        on_phase: told what is being done.
        has_trials: whether trials have been compared with the base model in the folder, so that it must stay. If not,
            one that was made from something else (for a former study of the same name) is made anew.
        make_observer: see :meth:`nasopt.methods.base.Method.observer`.

    Raises:
        ArtifactFolderError: the folder cannot be written.
        CheckpointError: the stored base model is damaged.
    """
    task = open_task(config, folder)
    checkpoints = CheckpointStore(folder / CHECKPOINTS)
    checkpoints.make_writable()
    remove_partial_files(folder)
    device = working_device()
    # Workers that start together, on any machine, prepare one after the other; the second finds what the first made.
    with lock_in(folder, ".preparation.lock") as lock:
        (folder / "data").mkdir(exist_ok=True)
        for partial in (folder / "data").glob("tmp*"):
            partial.unlink()  # the library `datasets` names what it writes so; a writer that was killed left it
        on_phase("tokenising", 0, 0)
        splits = task.encode(folder / "data")
        base = BaseModel(config, task, splits["train"], folder, checkpoints)
        model, key = base.stored(has_trials) or base.trained(device, on_phase, make_observer, lambda: lock.is_lost)
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
