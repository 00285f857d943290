"""Creates a study in a database.

The database alone resumes a study: configuration, artifact folder and everything a sampler needs are in it.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL

from nasopt.config.study import StudyConfig, check_document, check_section, read_toml, study_file_error
from nasopt.config.task import TaskConfig
from nasopt.errors import (
    StorageError,
    StudyExistsError,
    StudyFileError,
    choices,
)
from nasopt.host.files import ensure_writable
from nasopt.host.identity import is_gone, worker_identity
from nasopt.host.object_store import check_store, url_of
from nasopt.measurement.sources import remarks
from nasopt.methods.registry import available, check_functions, find, function_errors
from nasopt.records.study import StudyRecord
from nasopt.storage.ownership import new_place
from nasopt.storage.rdb import artifact_folder, open_storage, shown, sqlite_path
from nasopt.study import trust
from nasopt.study.deletion import Deletion
from nasopt.study.opening import is_half_made, name_metrics, open_study, places, stored_config
from nasopt.trial.objective import Objective

if TYPE_CHECKING:
    from nasopt.tasks.base import Task

CREATION_SECONDS = 10
"""A study that is half made for this long was left behind by a `create` that was stopped."""

logger = logging.getLogger("nasopt")


def read_study_file(path: str | Path, name: str | None = None) -> StudyConfig:
    """Reads a study file and checks all of it, the method's options included.

    Raises:
        StudyFileError: it has errors; the message names every one.
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
        errors += check_section(methods[method].about.options, options, prefix="method_options.")[1]
        errors += function_errors(methods[method], options)
    if config is None or errors:
        raise study_file_error(path, errors)
    return config


def create(config: StudyConfig, url: URL, *, artifacts: Path | None = None, skip_if_exists: bool = False) -> bool:
    """Validates a study, data and model included, and stores it. Trains nothing.

    The code and the object store that it names (see :mod:`nasopt.study.trust`) are trusted on this machine from now on.

    Returns:
        Whether it was created; False if an equal one was there and `skip_if_exists`.

    Raises:
        StudyExistsError: a study of that name exists (and, with `skip_if_exists`, differs).
        NasoptError: there is something else that the user can mend.
    """
    config = _resolve_paths(config)
    created = _create(config, url, artifacts, skip_if_exists)
    if trust.code_of(config) or (artifacts is not None and url_of(artifacts) is not None):
        trust.record(open_study(url, config.name, read_only=True))
    return created


def _create(config: StudyConfig, url: URL, artifacts: Path | None, skip_if_exists: bool) -> bool:
    path = sqlite_path(url)
    # A database file that is not there yet is made last, so that nothing is left of a study that is refused.
    is_new = path is not None and not path.exists() and path.parent.is_dir()
    storage = None if is_new else open_storage(url)
    if storage is not None and _is_there(storage, config, url, skip_if_exists):
        return False
    objective = Objective(config)
    task = _checked(config, objective)
    config = _with_task(config, task.settled)
    folder = (artifacts or artifact_folder(url)).resolve()
    ensure_writable(folder)
    check_store(folder)
    storage = storage or open_storage(url)
    try:
        study = optuna.create_study(
            study_name=config.name, storage=storage, directions=objective.directions, sampler=objective.sampler()
        )
    except optuna.exceptions.DuplicatedStudyError:  # another process was quicker
        if _is_there(storage, config, url, skip_if_exists):
            return False
        raise
    try:
        _store(study, config, folder)
    except BaseException:
        Deletion.of(url, config.name, folder).run()
        raise
    for remark in (*task.remarks, *remarks(config, objective.sources)):
        logger.info("%s", remark)
    return True


def _is_there(storage: RDBStorage, config: StudyConfig, url: URL, skip_if_exists: bool) -> bool:
    """Whether an equal study is there, as it may be if `skip_if_exists`. One that is half made is removed.

    Raises:
        StudyExistsError: another one is, or one is being made.
    """
    try:
        number = storage.get_study_id_from_name(config.name)
    except KeyError:
        return False
    study = optuna.load_study(study_name=config.name, storage=storage)
    deadline = time.monotonic() + CREATION_SECONDS
    while is_half_made(study) and time.monotonic() < deadline:
        creator = StudyRecord.of(study).creator
        if creator is not None and is_gone(creator):
            break
        time.sleep(0.1)  # its creator is at work, or was stopped before it could say who it is
    if is_half_made(study):
        Deletion.of(url, config.name).run()
        return False
    try:
        if skip_if_exists and _is_same(stored_config(storage, config.name, number), config):
            return True
        hint = "its configuration differs" if skip_if_exists else "choose another --name, or pass --skip-if-exists"
    except (StorageError, StudyFileError) as error:
        hint = f"{error}; choose another --name, or delete it"
    raise StudyExistsError(f"the study {config.name!r} exists already in {shown(url)}: {hint}")


def _checked(config: StudyConfig, objective: Objective) -> Task:
    """Gives the study's task; refuses now the devices, runtimes and models that trials would stumble over.

    Raises:
        NasoptError: there is something that the user can mend.
    """
    from nasopt.measurement.estimating import EstimatingSource
    from nasopt.measurement.lookup.source import LookupSource
    from nasopt.tasks.opening import open_task

    check_functions(config)
    task = open_task(config)
    for source in objective.sources.values():
        if isinstance(source, EstimatingSource) and not config.task.traits.estimated_latency:
            raise StudyFileError(
                f"latency.device: {source.latency.device} is not here, and the latency of a "
                f"{config.task.type} cannot be predicted: set `device` to cpu or cuda"
            )
        if isinstance(source, LookupSource):
            source.check_model(task.blank_model().config)
    objective.method.check(task, config)
    if Path(config.task.model).is_dir():
        task.load_model()  # weights that are damaged, or another model's, are told now and not before the first trial
    return task


def _store(study: optuna.Study, config: StudyConfig, folder: Path) -> None:
    """Makes the study's folder, and writes what it stores; the configuration last, which makes it whole."""
    from nasopt.tasks.datasets import content_hash

    StudyRecord(creator=worker_identity()).write_to(study)
    name_metrics(study, config)
    place = new_place(study, folder, config.name)
    if place.name != config.name:
        logger.info("%s is in use: the study's files go to %s", folder / config.name, place.folder)
    hashes = {kind: content_hash(where) for kind, where in places(config).items()}
    StudyRecord(data=hashes, configuration=json.loads(config.to_json())).write_to(study)


def _is_same(stored: StudyConfig, config: StudyConfig) -> bool:
    """Whether a study is stored with this configuration, or with one that the data make the same."""
    from nasopt.tasks.opening import open_task

    if stored == config:
        return True
    if stored.task != config.task.answered_by(stored.task) or stored != _with_task(config, stored.task):
        return False
    return open_task(stored).settled == open_task(config).settled


def _with_task(config: StudyConfig, task: TaskConfig) -> StudyConfig:
    return config.model_copy(update={"task": task})


def _resolve_paths(config: StudyConfig) -> StudyConfig:
    from nasopt.tasks.datasets import resolve_path

    dataset = config.task.dataset.model_copy(update={"path": resolve_path(config.task.dataset.path)})
    similarity = config.task.similarity
    if similarity.encodechka is not None:
        similarity = similarity.model_copy(update={"encodechka": resolve_path(similarity.encodechka)})
    retrieval = config.task.retrieval
    if retrieval is not None:
        retrieval = retrieval.model_copy(update={"path": resolve_path(retrieval.path)})
    model = config.task.model if config.task.new_model else resolve_path(config.task.model)
    tables = {"similarity": similarity, "retrieval": retrieval}
    task = config.task.model_copy(update={"dataset": dataset, "model": model, **tables})
    latencies = tuple(
        latency if latency.lut is None else latency.model_copy(update={"lut": resolve_path(latency.lut)})
        for latency in config.latency
    )
    options = dict(config.method_options)
    for name in find(config.method).about.path_options:
        if options.get(name):
            options[name] = [resolve_path(path) for path in options[name]]
    return config.model_copy(update={"task": task, "latency": latencies, "method_options": options})
