"""How long the commands that only read take, with a large study and with none.

    python benchmarks/reading.py --trials 10000

Every time is that of a whole process, the median of several runs. What a reading command takes *beyond the storage's
own loading* is its time less that of a process that opens the study with Optuna alone and reads all trials; both run in
turn. The study has the genotype of a 6-layer model (20 parameters) and the attributes that nasopt writes, in SQLite.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from sampler import DIRECTIONS, history, space

from nasopt.config import StudyConfig
from nasopt.pareto import pareto_mask
from nasopt.storage import attributes
from nasopt.storage.rdb import open_storage, parse_url

NAMES = ["quality", "latency_ms", "memory_mb"]
DOCUMENT = {
    "name": "large",
    "method": "genetic",
    "task": {"model": "model", "dataset": {"path": "data", "text": ["text"]}},
}
LOAD = """
import sys, optuna
from nasopt.storage.rdb import open_storage, parse_url
storage = open_storage(parse_url(sys.argv[1]))
print(len(optuna.load_study(study_name="large", storage=storage).get_trials(deepcopy=False)))
"""
READING = {
    "study show": ("study", "show", "large"),
    "study pareto": ("study", "pareto", "large"),
    "study pareto -f json": ("study", "pareto", "large", "-f", "json"),
    "study trials": ("study", "trials", "large"),
    "study trials -f csv": ("study", "trials", "large", "-f", "csv"),
}
STARTING = {"--help": ("--help",), "study list": ("study", "list"), "methods": ("methods",)}


def trial_attributes(trial: optuna.trial.FrozenTrial, number: int) -> dict[str, Any]:
    """What the objective leaves with a trial."""
    measured = {name: 1.0 for name in ("ratio", "ratio_low", "ratio_high", "median_ms", "p10_ms", "p90_ms")}
    measured |= {"base_median_ms": 1.0, "base_p10_ms": 1.0, "base_p90_ms": 1.0, "value_ms": trial.values[1]}
    environment = {"device": "cpu: benchmark", "driver": None, "torch_version": "2.13.0", "dtype": "fp32", "threads": 1}
    shape = {"batch_size": 8, "sequence_length": 64, "repetitions": 200, "source": "measured"}
    return {
        attributes.WORKER: {"host": "benchmark", "pid": 1, "started": 1.0},
        attributes.LATENCY: {"latency_ms": measured | environment | shape},
        attributes.CHECKPOINT: f"{number:064x}",
        attributes.PARENT: number - 1 if number else None,
        "finetune_epochs": number,
        "distill_epochs": 0,
        "training_result": {"steps": 125, "seconds": 9.0, "loss": 0.4},
        "parameters": 20_000_000,
        "fitness": 0.5,
        **({} if number else {attributes.IS_BASE: True}),
    }


def fill(url: str, n_trials: int) -> int:
    """Writes the study; the size of its Pareto front."""
    storage = open_storage(parse_url(url))
    study = optuna.create_study(study_name="large", storage=storage, directions=DIRECTIONS)
    study.set_metric_names(NAMES)
    study.set_user_attr(attributes.ARTIFACTS, str(Path(url.removeprefix("sqlite:///")).with_suffix(".artifacts")))
    study.set_user_attr(attributes.CONFIG, StudyConfig.model_validate(DOCUMENT).model_dump(mode="json"))
    trials = history(n_trials)
    for number, trial in enumerate(trials):
        trial.user_attrs = trial_attributes(trial, number)
    study.add_trials(trials)
    front = int(pareto_mask(attributes.minimised(trials, study)).sum())
    storage.engine.dispose()
    return front


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        empty, large = (f"sqlite:///{folder}/{name}.db" for name in ("empty", "large"))
        fill(empty, 0)
        os.environ["NASOPT_STORAGE"] = empty
        for name, command in STARTING.items():
            times = [seconds("-m", "nasopt", *command) for _ in range(arguments.repeats)]
            print(f"nasopt {name:22} {statistics.median(times):6.2f} s", flush=True)
        start = time.perf_counter()
        front = fill(large, arguments.trials)
        size = Path(folder, "large.db").stat().st_size / 1e6
        print(f"{arguments.trials} trials x {len(space())} parameters, {front} on the front, {size:.0f} MB, ", end="")
        print(f"written in {time.perf_counter() - start:.0f} s", flush=True)
        os.environ["NASOPT_STORAGE"] = large
        for name, command in READING.items():
            pairs = [(seconds("-c", LOAD, large), seconds("-m", "nasopt", *command)) for _ in range(arguments.repeats)]
            load, whole = (statistics.median(times) for times in zip(*pairs, strict=True))
            print(
                f"nasopt {name:22} {whole:6.2f} s  loading alone {load:6.2f} s  beyond it {whole - load:6.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
