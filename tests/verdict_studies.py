"""Studies of made-up trials and predictions, to compare a front's members with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
from sqlalchemy.engine import make_url

import nasopt
from nasopt.records import names as attributes
from nasopt.storage.ownership import new_place
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.study.opening import OpenStudy

NAMES = ["quality", "latency_ms", "memory_mb"]
LABELS = np.arange(400) % 2


def make_trial(
    values: list[float], layers: int, control: str | None = None, precision: str = "fp32", **attrs: Any
) -> optuna.trial.FrozenTrial:
    params = {} if control else {f"layer_{index}": int(index < layers) for index in range(6)}
    marks = {"control": control, "control_depth": layers, "control_recipe": {"label": control}} if control else {}
    return optuna.trial.create_trial(
        values=values,
        params=params,
        distributions={name: optuna.distributions.IntDistribution(0, 1) for name in params},
        user_attrs={"precision": precision, **marks, **attrs},
    )


def opened_with(folder: Path, trials: list[optuna.trial.FrozenTrial], metric: str = "accuracy") -> OpenStudy:
    """A study of these trials; the first is the base model."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.set_metric_names(NAMES)
    trials[0].user_attrs[attributes.IS_BASE] = True
    study.add_trials(trials)
    task = {"model": "m", "metric": metric, "dataset": {"path": "d", "text": ["t"]}}
    config = nasopt.StudyConfig.model_validate({"name": "made", "method": "genetic", "task": task})
    return OpenStudy(study, config, new_place(study, folder, config.name), make_url("sqlite://"))


def store_classes(opened: OpenStudy, name: int | str, right: int, split: str = "s") -> None:
    """Predictions of which the first `right` are right."""
    values = np.where(np.arange(400) < right, LABELS, 1 - LABELS).astype(np.uint8)
    PredictionStore(opened.folder).write(name, Predictions(values, LABELS.astype(np.uint8), 2, split))
