"""Turns a trial into a model folder: chooses it, rebuilds its artifact, evaluates that once on the test split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.artifacts import ARTIFACTS, ArtifactKind
from nasopt.errors import ExportError, TrialNotFoundError, choices
from nasopt.export.card import model_card
from nasopt.export.onnx_card import onnx_text
from nasopt.host.files import scratch_folder
from nasopt.measurement.sources import make_source
from nasopt.methods.registry import make_method
from nasopt.records import queries
from nasopt.records.conditions import best_trial
from nasopt.records.trial import TrialRecord
from nasopt.study.opening import OpenStudy, require_artifacts
from nasopt.trial.artifact import make_artifact, make_onnx
from nasopt.trial.rebuilding import rebuild, task_of

if TYPE_CHECKING:
    from torch import nn

    from nasopt.tasks.base import Evaluation, Task

DATA = "data"
"""The folder of the tokenised data, inside the study's own."""


def choose_knee(opened: OpenStudy) -> FrozenTrial:
    """The knee of the front.

    Raises:
        TrialNotFoundError: the front has no member beside the base model, or its checkpoint was not kept.
        ArtifactFolderError: the study's artifact folder is not there.
    """
    knee = queries.knee_of(opened.study, queries.pareto_front(opened.study))
    if knee is None:
        raise TrialNotFoundError("--knee: the front has no member beside the base model yet")
    return choose(opened, knee.number, None)


def choose(opened: OpenStudy, number: int | None, condition: str | None) -> FrozenTrial:
    """The trial of that number, or the best final one that satisfies a condition.

    Raises:
        TrialNotFoundError: it is missing, failed, or its checkpoint was not kept.
        ArtifactFolderError: the study's artifact folder is not there.
    """
    require_artifacts(opened)
    store = opened.checkpoints
    if condition is not None:
        names = opened.config.metric_names
        final = queries.feasible(queries.final_trials(opened.study))
        kept = [t for t in final if queries.checkpoint_of(t) in store]
        return best_trial(kept, condition, names)
    trials = opened.study.get_trials(deepcopy=False)
    if number is None or number >= len(trials):
        last = f"0 to {len(trials) - 1}" if trials else "none; run `nasopt study optimize` first"
        raise TrialNotFoundError(f"--trial {number}: there is no such trial; the study has {last}")
    trial = trials[number]
    if trial.state != TrialState.COMPLETE:
        reason = queries.failure_of(trial) or queries.screening_of(trial) or ""
        raise TrialNotFoundError(
            f"--trial {number}: it is {trial.state.name}, not COMPLETE{': ' * bool(reason)}{reason}"
        )
    if queries.checkpoint_of(trial) not in store:
        raise TrialNotFoundError(
            f"--trial {number}: its weights were not kept (only those on the Pareto front and in the population are); "
            "`nasopt study pareto` shows trials that can be exported"
        )
    return trial


def export(
    opened: OpenStudy,
    trial: FrozenTrial,
    to: Path,
    *,
    form: Literal["hf", "onnx"] | None = None,
    dimension: int | None = None,
    force: bool = False,
) -> Path:
    """Writes a trial's model for `from_pretrained` or as an ONNX file, verified, with a model card.

    It only reads the study: neither its database nor its artifact folder need be writable.

    Args:
        opened: the study.
        trial: complete, with a checkpoint.
        to: the folder to write.
        form: how to write it; the trial's artifact as it is if None.
        dimension: the number of first entries that the vectors of the folder are cut to, of those that were evaluated.
        force: whether the folder may hold something already.

    Raises:
        ArtifactFolderError: the study's artifact folder is not there.
        ExportError: the folder is not empty (and `force` is not set), the model read back differs, or it has no such
            form, or vectors of that size were not evaluated.
        CheckpointError: the checkpoint is damaged.
        MissingExtraError: the extra `onnx` is not installed.
    """
    from nasopt.export.folder import check_target

    check_target(to, force)
    require_artifacts(opened)
    kind = _kind(opened, trial)
    is_onnx = kind is not None and kind.form == "onnx"
    if form == "hf" and is_onnx and kind is not None and kind.storage != "float":
        precision = queries.precision_of(trial)
        raise ExportError(
            f"the trial's {precision} is that of an ONNX file; leave out --format hf, or choose a trial in fp32"
        )
    writes_onnx = form == "onnx" or (form is None and is_onnx)
    if dimension is not None:
        _check_dimension(trial, dimension, writes_onnx)
    with _working_folder(opened) as working:
        if writes_onnx:
            return _export_onnx(opened, trial, to, force, working, kind if is_onnx else None)
        return _export_hf(opened, trial, to, force, working, dimension)


def _check_dimension(trial: FrozenTrial, dimension: int, writes_onnx: bool) -> None:
    """Refuses to cut vectors where nobody knows what that costs.

    Raises:
        ExportError: vectors of that size were not evaluated, or an ONNX file is written.
    """
    evaluated = TrialRecord.of(trial).quality_by_dimension or {}
    if str(dimension) not in evaluated:
        found = choices(evaluated) or "none (`dimensions` under [task.similarity] names sizes, for models of vectors)"
        raise ExportError(
            f"--dimensions {dimension}: trial {trial.number} was not evaluated with that; it was with {found}"
        )
    if writes_onnx:
        raise ExportError(
            f"--dimensions {dimension}: is for a folder that sentence-transformers loads (--format hf); an ONNX file "
            "gives hidden states, whose first entries can be taken by whoever runs it"
        )


def _kind(opened: OpenStudy, trial: FrozenTrial) -> ArtifactKind | None:
    """The kind of the trial's artifact; None for torch modules, as all those of studies are that are older than the
    choice."""
    memory = TrialRecord.of(trial).memory
    if memory is None or memory.form is None:
        return None
    return ARTIFACTS[opened.config.latency[0].usual_runtime][queries.precision_of(trial)]


def _export_hf(
    opened: OpenStudy, trial: FrozenTrial, to: Path, force: bool, working: Path, dimension: int | None
) -> Path:
    """Writes the trial's torch modules, whose vectors are cut to that many first entries (None: whole ones)."""
    from nasopt.export.folder import export_config, export_hf
    from nasopt.models.vocabulary import tokenizer_of
    from nasopt.tasks.opening import open_task

    study_task = open_task(opened.config, working)
    task = task_of(trial, study_task)
    candidate = rebuild(make_method(opened.config), opened.checkpoints, trial, task)
    device = make_source(opened.config.latency[0]).device
    artifact = make_artifact(candidate, device, make_method(opened.config).plan.quantizer)
    tested = _tested(opened, trial, study_task, working)
    if dimension is not None:
        assert task.embedding is not None
        task = task.embedding.cut_to(dimension)
    return export_hf(
        artifact,
        tokenizer_of(task.tokenizer, candidate.architecture),
        candidate.architecture,
        to,
        card=model_card(opened, task, trial, tested, needs_code=hasattr(export_config(artifact), "auto_map")),
        force=force,
        beside=task.folder_files,
        dimension=dimension,
    )


def _export_onnx(
    opened: OpenStudy, trial: FrozenTrial, to: Path, force: bool, working: Path, kind: ArtifactKind | None
) -> Path:
    """Writes the trial's own ONNX file, of that kind; or the file that its torch modules are converted to (None)."""
    import torch

    from nasopt.export.onnx import check_convertible, export_onnx
    from nasopt.models.onnx import OnnxModel
    from nasopt.models.vocabulary import tokenizer_of
    from nasopt.tasks.opening import open_task, task_class

    task_type = opened.config.task.type
    obstacle = task_class(opened.config.task).onnx_obstacle
    if obstacle is not None:
        raise ExportError(f"a {task_type} model cannot be written as ONNX, which has no {obstacle}; use --format hf")
    if kind is None:
        check_convertible(queries.precision_of(trial))
    study_task = open_task(opened.config, working)
    task = task_of(trial, study_task)
    candidate = rebuild(make_method(opened.config), opened.checkpoints, trial, task)
    tokenizer = tokenizer_of(task.tokenizer, candidate.architecture)
    own = None
    if kind is None:
        model = make_artifact(candidate, torch.device("cpu"), make_method(opened.config).plan.quantizer)
    else:
        model = candidate.model
        encoded = task.encode(working / DATA, None if tokenizer is task.tokenizer else tokenizer)
        names = task.tokenizer.model_input_names
        own = make_onnx(candidate, kind, names, encoded["train"], opened.config.calibration_texts)

    def card(file: Path) -> str:
        tested = _tested(opened, trial, study_task, working, OnnxModel(file))
        text = onnx_text(opened, task, file, tokens, tested, is_artifact=own is not None)
        return model_card(opened, task, trial, (None, None), text)

    tokens = int(candidate.model.get_input_embeddings().weight.shape[0])
    return export_onnx(model, tokenizer, candidate.architecture, to, card=card, force=force, artifact=own)


@contextmanager
def _working_folder(opened: OpenStudy) -> Iterator[Path]:
    """A temporary folder that a task takes for the study's own: it finds there what the study has tokenised.

    Anything else that it makes goes with the folder, so that the study's own stays as it is.
    """
    with scratch_folder() as temporary:
        data = temporary / DATA
        data.mkdir()
        kept = opened.folder / DATA
        for path in kept.iterdir() if kept.is_dir() else ():
            (data / path.name).symlink_to(path)
        yield temporary


def _tested(
    opened: OpenStudy, trial: FrozenTrial, task: Task, working: Path, exported: nn.Module | None = None
) -> tuple[Evaluation | None, Evaluation | None]:
    """The test split, evaluated by a trial and by the base model; None where there is none, or no checkpoint.

    Args:
        working: a folder as :func:`_working_folder` makes it.
        exported: evaluated, on the CPU, instead of the trial's artifact.
    """
    import torch

    from nasopt.models.vocabulary import tokenizer_of

    if not task.evaluates_test:
        return None, None
    device, plan = make_source(opened.config.latency[0]).device, make_method(opened.config).plan

    def evaluation(which: FrozenTrial | None, exported: nn.Module | None = None) -> Evaluation | None:
        if which is None or queries.checkpoint_of(which) not in opened.checkpoints:
            return None
        its = task_of(which, task)
        candidate = rebuild(make_method(opened.config), opened.checkpoints, which, its)
        tokenizer = tokenizer_of(its.tokenizer, candidate.architecture)
        own = None if tokenizer is its.tokenizer else tokenizer
        split = its.encode(working / DATA, own)["test"]
        if exported is not None:
            return its.evaluate(exported, split, torch.device("cpu"), own)
        # It is quantised again: evaluating would repack the weights of the artifact that is exported.
        return its.evaluate(make_artifact(candidate, device, plan.quantizer), split, device, own)

    return evaluation(trial, exported), evaluation(queries.base_of(opened.study))
