"""A study in a database: create, open, run, resume, delete.

The database alone resumes a study: configuration, artifact folder and everything a sampler needs are in it.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from nasopt.config import StudyConfig, check_document, check_section, read_toml, study_file_error
from nasopt.errors import (
    ArtifactFolderError,
    StorageError,
    StudyExistsError,
    StudyFileError,
    StudyNotFoundError,
    choices,
)
from nasopt.latency_objective import LookedUpLatency, PredictedLatency, latency_name
from nasopt.methods.base import available, find
from nasopt.objective import Objective
from nasopt.recovery import recording_interruptions, retry, settle_interrupted, was_given_up
from nasopt.storage import attributes
from nasopt.storage.attachments import remove_uploads
from nasopt.storage.checkpoints import ensure_writable
from nasopt.storage.rdb import artifact_folder, open_storage, shown, sqlite_path

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
    task = open_task(config)
    for source in objective.sources.values():  # refused now where devices and runtimes are not here
        if isinstance(source, PredictedLatency) and config.task.type == "translation":
            raise StudyFileError(
                f"latency.device: {source.latency.device} is not here, and the latency of a translation cannot be "
                "predicted: set `device` to cpu or cuda"
            )
        if isinstance(source, LookedUpLatency):
            source.check_model(task)
    objective.method.check(task)
    folder = (artifacts or artifact_folder(url)).resolve()
    ensure_writable(folder / config.name)
    storage = storage or open_storage(url)
    study = optuna.create_study(
        study_name=config.name, storage=storage, directions=objective.directions, sampler=objective.sampler()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(objective.metric_names)
    hashes = {kind: content_hash(place) for kind, place in _places(config).items()}
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
    for kind, place in _places(config).items():
        if hashes.get(kind) is None:
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
    if rebuild:
        from nasopt.preparation import forget_damaged_base

        forget_damaged_base(opened.folder)


def remaining_budget(opened: OpenStudy, budget: int) -> int:
    """What is left of a whole search."""
    return max(0, budget - len(attributes.finished_trials(opened.study)))


def run_base(opened: OpenStudy, objective: Objective) -> None:
    """Measures the base model as the study's first trial, unless that has been done.

    Raises:
        StorageError: it failed; nothing can be compared without it.
    """
    study = opened.study
    if attributes.base_of(study) is not None:
        return
    context = objective.prepare(study)
    # Under a lock, so that of two commands that start together one measures it, and the other compares with it.
    with FileLock(opened.folder / ".base.lock"), recording_interruptions(study):
        settle_interrupted(study, opened.folder)
        if attributes.base_of(study) is None and not _waiting_bases(study):
            study.enqueue_trial(objective.method.base_params(context.shape), user_attrs={attributes.IS_BASE: True})
        while attributes.base_of(study) is None and _waiting_bases(study):
            study.optimize(objective, n_trials=1)
    if attributes.base_of(study) is None:
        bases = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(attributes.IS_BASE)]
        reason = bases[-1].user_attrs.get(attributes.FAILURE, "unknown")
        raise StorageError(f"the base model could not be measured: {reason}")


def _waiting_bases(study: optuna.Study) -> list[FrozenTrial]:
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial for trial in waiting if trial.user_attrs.get(attributes.IS_BASE)]


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
    with recording_interruptions(study):
        while not is_over(opened, objective) and take_ticket():
            settle_interrupted(study, opened.folder)
            run_trial(study, objective, on_finished, _counts)
        settle_interrupted(study, opened.folder)
        objective.collect(study)


def run_trial(
    study: optuna.Study,
    objective: Objective,
    on_finished: Callable[[FrozenTrial], None],
    counts: Callable[[FrozenTrial], bool] = lambda trial: True,
) -> None:
    """Runs one trial, and as many more as it takes until one counts.

    Args:
        on_finished: told of the one that counts.
    """
    before = objective.trial_number
    ended: list[FrozenTrial] = []
    try:
        while not ended or not counts(ended[-1]):
            study.optimize(objective, n_trials=1, callbacks=[lambda _, trial: ended.append(trial)])
        on_finished(ended[-1])
    except (UpdateFinishedTrialError, ValueError, AssertionError):  # Optuna has three ways to say so
        # A process that stood still (a suspended machine) may find that others have given its trial up.
        number = objective.trial_number
        if number == before or not was_given_up(study, number):
            raise
        logger.warning("trial %d: this process stood still and was taken for dead; the trial is tried again", number)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the search: a rejected candidate has cost nothing, a control was left behind."""
    return attributes.REJECTED not in trial.user_attrs and attributes.CONTROL not in trial.user_attrs


def is_over(opened: OpenStudy, objective: Objective) -> str | None:
    """Why no further trial is needed; None if it is."""
    study = opened.study
    if any(trial.user_attrs.get(attributes.EXHAUSTED) for trial in study.get_trials(False, (TrialState.PRUNED,))):
        return "every genotype the method can reach has been tried"
    target = objective.method.target_quality
    base = attributes.base_of(study)
    if target is None or base is None:
        return None
    for trial in attributes.feasible(attributes.complete_trials(study)):
        smaller_and_faster = all(mine < its for mine, its in zip(trial.values[1:], base.values[1:], strict=True))
        if trial.values[0] >= target and smaller_and_faster:
            return f"trial {trial.number} reaches the target quality {target:g} and is smaller and faster than the base"
    return None


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
    similarity = config.task.similarity
    if similarity.encodechka is not None:
        similarity = similarity.model_copy(update={"encodechka": resolve_path(similarity.encodechka)})
    model = config.task.model if config.task.new_model else resolve_path(config.task.model)
    task = config.task.model_copy(update={"dataset": dataset, "model": model, "similarity": similarity})
    latencies = tuple(
        latency if latency.lut is None else latency.model_copy(update={"lut": resolve_path(latency.lut)})
        for latency in config.latency
    )
    options = dict(config.method_options)
    for name in find(config.method).path_options:
        if options.get(name):
            options[name] = [resolve_path(path) for path in options[name]]
    return config.model_copy(update={"task": task, "latency": latencies, "method_options": options})


def _places(config: StudyConfig) -> dict[str, str]:
    """What a study is made from and must not change, in words, with where it is."""
    tables = {f"look-up table of {latency_name(latency)}": latency.lut for latency in config.latency}
    task = config.task
    places = {"dataset": task.dataset.path, "model": task.model, "encodechka": task.similarity.encodechka, **tables}
    return {kind: place for kind, place in places.items() if place is not None}
