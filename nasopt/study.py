"""A study in a database: create, open, run, resume, delete.

The database alone resumes a study: configuration, artifact folder and everything a sampler needs are in it.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from nasopt.config import StudyConfig, check_document, check_section, read_toml, study_file_error
from nasopt.errors import ArtifactFolderError, StorageError, StudyExistsError, StudyNotFoundError, choices
from nasopt.methods.base import available
from nasopt.objective import Objective
from nasopt.process import is_gone, worker_identity
from nasopt.samplers.history import WORKER, parent_of, proposed_params
from nasopt.storage import attributes
from nasopt.storage.attachments import remove_uploads
from nasopt.storage.checkpoints import ensure_writable
from nasopt.storage.rdb import artifact_folder, open_storage, shown, sqlite_path

UNIDENTIFIED_GRACE = timedelta(seconds=30)
"""A running trial that names no process this long after its start belonged to one that was killed in between."""

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class OpenStudy:
    """A study of ours in a database.

    Attributes:
        study: Optuna's view of it.
        config: its configuration.
        artifacts: the folder that holds `<study name>/` with its files.
        url: the database.
    """

    study: optuna.Study
    config: StudyConfig
    artifacts: Path
    url: URL

    @property
    def folder(self) -> Path:
        return self.artifacts / self.config.name


def read_study_file(path: str | Path, name: str | None = None) -> StudyConfig:
    """Reads a study file and checks all of it, the method's options included.

    Raises:
        StudyFileError: with every error in it.
    """
    document = read_toml(path)
    if name is not None:
        document["name"] = name
    config, errors = check_document(document)
    methods = available()
    method = document.get("method")
    if isinstance(method, str) and method not in methods:
        errors.append(f"method: {method!r} is not a method; one of {choices(methods)}")
    elif isinstance(method, str) and isinstance(options := document.get("method_options", {}), dict):
        errors += check_section(methods[method].options_model, options, prefix="method_options.")[1]
    if config is None or errors:
        raise study_file_error(path, errors)
    return config


def create(config: StudyConfig, url: URL, *, artifacts: Path | None = None, skip_if_exists: bool = False) -> bool:
    """Validates a study, data and model included, and stores it. Trains nothing.

    Returns:
        Whether it was created; False if an equal one was there and `skip_if_exists`.

    Raises:
        StudyExistsError: a study of that name exists (and, with `skip_if_exists`, differs).
        NasoptError: anything else that the user can mend.
    """
    from nasopt.preparation import open_task
    from nasopt.tasks.datasets import content_hash

    config = _resolve_paths(config)
    path = sqlite_path(url)
    # A database file that is not there yet is made last, so that nothing is left of a study that is refused.
    is_new = path is not None and not path.exists() and path.parent.is_dir()
    storage = None if is_new else open_storage(url)
    if storage is not None and _exists(storage, config.name):
        if skip_if_exists and _stored_config(storage, config.name) == config:
            return False
        hint = "its configuration differs" if skip_if_exists else "choose another --name, or pass --skip-if-exists"
        raise StudyExistsError(f"the study {config.name!r} exists already in {shown(url)}: {hint}")
    objective = Objective(config)
    open_task(config)
    folder = (artifacts or artifact_folder(url)).resolve()
    ensure_writable(folder / config.name)
    storage = storage or open_storage(url)
    study = optuna.create_study(
        study_name=config.name, storage=storage, directions=objective.directions, sampler=objective.sampler()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(objective.metric_names)
    hashes = {"dataset": content_hash(config.task.dataset.path), "model": content_hash(config.task.model)}
    study.set_user_attr(attributes.DATA, hashes)
    study.set_user_attr(attributes.ARTIFACTS, str(folder))
    study.set_user_attr(attributes.CONFIG, json.loads(config.to_json()))
    return True


def open_study(url: URL, name: str, artifacts: Path | None = None) -> OpenStudy:
    """Opens a study.

    Raises:
        StorageError: the database cannot be opened.
        StudyNotFoundError: it holds no such study, or one that nasopt did not make.
    """
    storage = open_storage(url, must_exist=True, stale_trial_callback=retry)
    if not _exists(storage, name):
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
        raise StudyNotFoundError(f"no study {name!r} in {shown(url)}; it has: {choices(sorted(names)) or 'none'}")
    config = _stored_config(storage, name)
    study = optuna.load_study(study_name=name, storage=storage, sampler=Objective(config).sampler())
    folder = artifacts or Path(study.user_attrs[attributes.ARTIFACTS])
    return OpenStudy(study, config, folder.resolve(), url)


def list_studies(url: URL, artifacts: Path | None = None) -> list[OpenStudy]:
    """Every study of ours in a database, by name."""
    storage = open_storage(url, must_exist=True)
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    names = sorted(summary.study_name for summary in summaries if attributes.CONFIG in summary.user_attrs)
    return [open_study(url, name, artifacts) for name in names]


def delete(opened: OpenStudy) -> None:
    """Removes a study from the database, and its files."""
    remove_uploads(opened.study, [opened.artifacts, artifact_folder(opened.url)])
    optuna.delete_study(study_name=opened.config.name, storage=opened.study._storage)
    shutil.rmtree(opened.folder, ignore_errors=True)


def with_data(opened: OpenStudy, path: str | None) -> OpenStudy:
    """The study with its data (and model) where they are on this machine.

    Raises:
        StorageError: what is there is not what the study was created with.
    """
    from nasopt.tasks.datasets import content_hash, resolve_path

    config = opened.config
    if path is not None:
        dataset = config.task.dataset.model_copy(update={"path": resolve_path(path)})
        config = config.model_copy(update={"task": config.task.model_copy(update={"dataset": dataset})})
    hashes = opened.study.user_attrs[attributes.DATA]
    for kind, place in (("dataset", config.task.dataset.path), ("model", config.task.model)):
        if hashes[kind] is None:
            continue
        found = content_hash(place)
        if found is None:
            cure = "pass --data PATH" if kind == "dataset" else "put it back"
            raise StorageError(f"{place}: the study's {kind} is no longer there; {cure}")
        if found != hashes[kind]:
            raise StorageError(
                f"{place}: the study's {kind} has changed since it was created, so its trials would not compare; "
                "create a new study"
            )
    return OpenStudy(opened.study, config, opened.artifacts, opened.url)


def check_artifacts(opened: OpenStudy, rebuild: bool) -> None:
    """Makes sure that the study's files are there, if it has any trial.

    Raises:
        ArtifactFolderError: they are not, and `rebuild` is not asked for.
    """
    if attributes.base_of(opened.study) is not None and not opened.folder.is_dir() and not rebuild:
        raise ArtifactFolderError(
            f"{opened.folder}: the study's artifact folder is not there; bring it back, name it with --artifacts, or "
            "pass --rebuild to make the base model again and restart inheritance from it"
        )
    ensure_writable(opened.folder)


def remaining_budget(opened: OpenStudy, budget: int) -> int:
    """What is left of a whole search."""
    return max(0, budget - len(attributes.finished_trials(opened.study)))


def run_base(opened: OpenStudy, objective: Objective) -> None:
    """Measures the base model as the study's first trial, unless that has been done.

    Raises:
        StorageError: it failed; nothing can be compared without it.
    """
    study = opened.study
    settle_interrupted(study)
    if attributes.base_of(study) is not None:
        return
    context = objective.prepare(study)
    study.enqueue_trial(objective.method.base_params(context.shape), user_attrs={attributes.IS_BASE: True})
    with _recording_interruptions(study):
        study.optimize(objective, n_trials=1)
    if attributes.base_of(study) is None:
        reason = study.get_trials(deepcopy=False)[-1].user_attrs.get(attributes.FAILURE, "unknown")
        raise StorageError(f"the base model could not be measured: {reason}")


def run_trials(
    opened: OpenStudy,
    objective: Objective,
    take_ticket: Callable[[], bool],
    on_finished: Callable[[FrozenTrial], None],
) -> None:
    """Runs trials one after another until there is no ticket left or the search is over.

    Args:
        take_ticket: asked before each trial whether it may begin; shared by all workers.
        on_finished: told of each trial that ended.
    """
    study = opened.study
    objective.prepare(study)
    with _recording_interruptions(study):
        while not is_over(opened, objective) and take_ticket():
            settle_interrupted(study)
            study.optimize(objective, n_trials=1, callbacks=[lambda _, trial: on_finished(trial)])
        settle_interrupted(study)
        objective.collect(study)


@contextmanager
def _recording_interruptions(study: optuna.Study) -> Iterator[None]:
    """Fails this process's trial where Ctrl-C or SIGTERM came before the objective could, while it was being made."""
    try:
        yield
    except KeyboardInterrupt as error:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _worker_of(trial) in (None, worker_identity()):
                _fail_interrupted(study, trial, f"interrupted: {str(error) or 'Ctrl-C'}")
        raise


def is_over(opened: OpenStudy, objective: Objective) -> str | None:
    """Why no further trial is needed; None if it is."""
    study = opened.study
    if any(trial.user_attrs.get(attributes.EXHAUSTED) for trial in study.get_trials(False, (TrialState.PRUNED,))):
        return "every genotype the method can reach has been tried"
    target = objective.method.target_quality
    base = attributes.base_of(study)
    if target is None or base is None:
        return None
    for trial in attributes.complete_trials(study):
        smaller_and_faster = all(mine < its for mine, its in zip(trial.values[1:], base.values[1:], strict=True))
        if trial.values[0] >= target and smaller_and_faster:
            return f"trial {trial.number} reaches the target quality {target:g} and is smaller and faster than the base"
    return None


def settle_interrupted(study: optuna.Study) -> None:
    """Fails the trials of dead processes and queues what was interrupted, once.

    Trials of live processes, here or on other hosts, are left alone: Optuna's heartbeat settles those of other hosts.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            _fail_interrupted(study, trial, "interrupted: its process is gone")
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(attributes.RETRY_OF) for trial in trials}
    for trial in trials:
        if (
            trial.state == TrialState.FAIL
            and trial.user_attrs.get(attributes.INTERRUPTED)
            and trial.number not in retried
        ):
            retry(study, trial)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues an interrupted trial once more: same parameters, same parent. A retry is not retried."""
    if attributes.RETRY_OF in trial.user_attrs:
        return
    params = proposed_params(trial)
    if not params:
        return
    marks: dict[str, Any] = {attributes.RETRY_OF: trial.number, attributes.PARENT: parent_of(trial)}
    if trial.user_attrs.get(attributes.IS_BASE):
        marks[attributes.IS_BASE] = True
    study.enqueue_trial(params, user_attrs=marks)


def _worker_of(trial: FrozenTrial) -> dict[str, Any] | None:
    worker: dict[str, Any] | None = trial.user_attrs.get(attributes.WORKER) or trial.system_attrs.get(WORKER)
    return worker


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether a running trial's process on this host is gone."""
    worker = _worker_of(trial)
    if worker is not None:
        return is_gone(worker)
    assert trial.datetime_start is not None
    return datetime.now() - trial.datetime_start > UNIDENTIFIED_GRACE


def _fail_interrupted(study: optuna.Study, trial: FrozenTrial, reason: str) -> None:
    study._storage.set_trial_user_attr(trial._trial_id, attributes.INTERRUPTED, True)
    study._storage.set_trial_user_attr(trial._trial_id, attributes.FAILURE, reason)
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _exists(storage: RDBStorage, name: str) -> bool:
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def _stored_config(storage: RDBStorage, name: str) -> StudyConfig:
    stored = storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get(attributes.CONFIG)
    if stored is None:
        raise StudyNotFoundError(
            f"the study {name!r} was not made by nasopt; `nasopt study list` shows those that were"
        )
    return StudyConfig.from_json(json.dumps(stored))


def _resolve_paths(config: StudyConfig) -> StudyConfig:
    from nasopt.tasks.datasets import resolve_path

    dataset = config.task.dataset.model_copy(update={"path": resolve_path(config.task.dataset.path)})
    task = config.task.model_copy(update={"dataset": dataset, "model": resolve_path(config.task.model)})
    return config.model_copy(update={"task": task})
