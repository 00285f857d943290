"""Studies that nobody has run: their configuration names no model that exists, their files are empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import optuna

from nasopt.config.study import StudyConfig
from nasopt.records.study import StudyRecord
from nasopt.storage.ownership import new_place
from nasopt.storage.rdb import artifact_folder, open_storage, parse_url

DATASET = {"path": "d", "text": ["t"], "splits": {"train": "train", "validation": "validation"}}


def configuration(name: str) -> StudyConfig:
    """A configuration that is allowed, of a study of that name."""
    return StudyConfig.model_validate({"name": name, "method": "genetic", "task": {"model": "m", "dataset": DATASET}})


def invent_study(
    url: str, name: str, root: Path | None = None, *, qualities: Sequence[float] = (0.9, 0.8)
) -> optuna.Study:
    """A study as `create` stores it, with complete trials of these qualities, and a checkpoint in its folder."""
    config = configuration(name)
    study = optuna.create_study(
        study_name=name, storage=open_storage(parse_url(url)), directions=["maximize", "minimize", "minimize"]
    )
    study.set_metric_names(config.metric_names)
    place = new_place(study, root or artifact_folder(parse_url(url)), name)
    StudyRecord(configuration=json.loads(config.to_json())).write_to(study)
    for number, quality in enumerate(qualities):
        marks = {"base": True} if number == 0 else {}
        study.add_trial(optuna.trial.create_trial(values=[quality, 1.0, quality], user_attrs=marks))
    (place.folder / "checkpoints").mkdir()
    (place.folder / "checkpoints" / "weights").write_text(name)
    return study


def invent_older_study(url: str, name: str, root: Path, *, folder: str | None = None) -> optuna.Study:
    """A study as it was stored by versions that gave studies no id.

    Args:
        url: the database.
        name: the study's name.
        root: the folder that holds the study's own.
        folder: the configuration's name, if that is another one.
    """
    study = optuna.create_study(study_name=name, storage=url, directions=["maximize", "minimize", "minimize"])
    document = json.loads(configuration(folder or name).to_json())
    StudyRecord(configuration=document, artifacts=str(root)).write_to(study)
    (root / (folder or name) / "checkpoints").mkdir(parents=True, exist_ok=True)
    return study
