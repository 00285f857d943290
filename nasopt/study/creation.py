"""A study in a database: create, open, run, resume, delete.

The database alone resumes a study: configuration, artifact folder and everything a sampler needs are in it.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import optuna
from sqlalchemy.engine import URL

from nasopt.config.study import StudyConfig, check_document, check_section, read_toml, study_file_error
from nasopt.config.task import TaskConfig
from nasopt.errors import (
    StudyExistsError,
    StudyFileError,
    choices,
)
from nasopt.host.files import ensure_writable
from nasopt.methods.registry import available, find
from nasopt.records.study import StudyRecord
from nasopt.storage.rdb import artifact_folder, open_storage, shown, sqlite_path
from nasopt.study.opening import _exists, _stored_config, places
from nasopt.trial.objective import Objective

logger = logging.getLogger("nasopt")


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
        errors += check_section(methods[method].about.options, options, prefix="method_options.")[1]
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
    from nasopt.measurement.estimating import EstimatingSource
    from nasopt.measurement.lookup.source import LookupSource
    from nasopt.tasks.datasets import content_hash
    from nasopt.tasks.opening import open_task

    config = _resolve_paths(config)
    path = sqlite_path(url)
    # A database file that is not there yet is made last, so that nothing is left of a study that is refused.
    is_new = path is not None and not path.exists() and path.parent.is_dir()
    storage = None if is_new else open_storage(url)
    if storage is not None and _exists(storage, config.name):
        if skip_if_exists and _is_same(_stored_config(storage, config.name), config):
            return False
        hint = "its configuration differs" if skip_if_exists else "choose another --name, or pass --skip-if-exists"
        raise StudyExistsError(f"the study {config.name!r} exists already in {shown(url)}: {hint}")
    objective = Objective(config)
    task = open_task(config)
    config = _with_task(config, task.settled)
    for source in objective.sources.values():  # refused now where devices and runtimes are not here
        if isinstance(source, EstimatingSource) and not config.task.traits.estimated_latency:
            raise StudyFileError(
                f"latency.device: {source.latency.device} is not here, and the latency of a "
                f"{config.task.type} cannot be predicted: set `device` to cpu or cuda"
            )
        if isinstance(source, LookupSource):
            source.check_model(task.blank_model().config)
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
    hashes = {kind: content_hash(place) for kind, place in places(config).items()}
    StudyRecord(configuration=json.loads(config.to_json()), artifacts=str(folder), data=hashes).write_to(study)
    for remark in task.remarks:
        logger.info("%s", remark)
    return True


def _is_same(stored: StudyConfig, config: StudyConfig) -> bool:
    """Whether a study is stored with this configuration, or with one that the data make the same."""
    from nasopt.tasks.opening import open_task

    if stored == config:
        return True
    open_question = {"positive_label": stored.task.positive_label}
    if stored.task != config.task.model_copy(update=open_question) or stored != _with_task(config, stored.task):
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
    model = config.task.model if config.task.new_model else resolve_path(config.task.model)
    task = config.task.model_copy(update={"dataset": dataset, "model": model, "similarity": similarity})
    latencies = tuple(
        latency if latency.lut is None else latency.model_copy(update={"lut": resolve_path(latency.lut)})
        for latency in config.latency
    )
    options = dict(config.method_options)
    for name in find(config.method).about.path_options:
        if options.get(name):
            options[name] = [resolve_path(path) for path in options[name]]
    return config.model_copy(update={"task": task, "latency": latencies, "method_options": options})
