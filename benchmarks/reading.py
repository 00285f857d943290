"""Measures how long the commands that only read take, with a large study and with none.

    python benchmarks/reading.py --trials 10000

Every time is that of a whole process, start-up included, the median of several runs: on the clock, and of the CPU. The
latter is to be compared where other processes run. What a reading command takes *beyond the storage's own loading* is
its time less that of a process that opens the study with Optuna alone and reads all trials; both run in turn. The study
has the genotype of a 6-layer model (20 parameters) and the attributes that nasopt writes, in SQLite.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from sampler import DIRECTIONS, history, space

from nasopt.config.study import StudyConfig
from nasopt.records.latency import latencies_from_json
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord, with_parent
from nasopt.storage.rdb import open_storage, parse_url

FloatArray = NDArray[np.float64]

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
    "study trials": ("study", "trials", "large"),
}
STARTING = {"--help": ("--help",), "study list": ("study", "list"), "methods": ("methods",)}


def trial_attributes(trial: optuna.trial.FrozenTrial, number: int) -> dict[str, Any]:
    """The attributes that the objective leaves with a trial."""
    measured = {name: 1.0 for name in ("ratio", "ratio_low", "ratio_high", "median_ms", "p10_ms", "p90_ms")}
    measured |= {"base_median_ms": 1.0, "base_p10_ms": 1.0, "base_p90_ms": 1.0, "value_ms": trial.values[1]}
    environment = {"device": "cpu: benchmark", "driver": "", "torch_version": "2.13.0", "dtype": "fp32", "threads": 1}
    shape = {"batch_size": 8, "sequence_length": 64, "repetitions": 200, "source": "measured"}
    return TrialRecord(
        worker={"host": "benchmark", "pid": 1, "started": 1.0},
        latencies=latencies_from_json({"latency_ms": measured | environment | shape}),
        checkpoint=f"{number:064x}",
        finetune_epochs=number,
        distill_epochs=0,
        training_result={"steps": 125, "seconds": 9.0, "loss": 0.4},
        parameters=20_000_000,
        is_base=None if number else True,
        details={"fitness": 0.5},
        **with_parent(number - 1 if number else None),
    ).to_attributes()


def fill(url: str, n_trials: int) -> None:
    """Writes the study."""
    storage = open_storage(parse_url(url))
    study = optuna.create_study(study_name="large", storage=storage, directions=DIRECTIONS)
    study.set_metric_names(NAMES)
    artifacts = str(Path(url.removeprefix("sqlite:///")).with_suffix(".artifacts"))
    configuration = StudyConfig.model_validate(DOCUMENT).model_dump(mode="json")
    StudyRecord(configuration=configuration, artifacts=artifacts).write_to(study)
    trials = history(n_trials)
    for number, trial in enumerate(trials):
        trial.user_attrs = trial_attributes(trial, number)
    study.add_trials(trials)
    storage.engine.dispose()  # the last connection to close writes the WAL back


def seconds(*command: str) -> FloatArray:
    """Seconds of a process: `(on the clock, of the CPU)`."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime])


def shown(times: FloatArray) -> str:
    return "{:6.2f} s ({:6.2f} s CPU)".format(*times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file", type=Path, help="keep the large study here, and take it from here if it is there")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        file = (arguments.file or Path(folder, "large.db")).resolve()
        empty, large = f"sqlite:///{folder}/empty.db", f"sqlite:///{file}"
        fill(empty, 0)
        os.environ["NASOPT_STORAGE"] = empty
        for name, command in STARTING.items():
            times = np.median([seconds("-m", "nasopt", *command) for _ in range(arguments.repeats)], axis=0)
            print(f"nasopt {name:22} {shown(times)}", flush=True)
        if not file.exists():
            fill(large, arguments.trials)
        print(f"{arguments.trials} trials x {len(space())} parameters, {file.stat().st_size / 1e6:.0f} MB", flush=True)
        os.environ["NASOPT_STORAGE"] = large
        for name, command in READING.items():
            pairs = [(seconds("-c", LOAD, large), seconds("-m", "nasopt", *command)) for _ in range(arguments.repeats)]
            load, whole = np.median(pairs, axis=0)
            print(f"nasopt {name:22} {shown(whole)}  loading {shown(load)}  beyond {shown(whole - load)}", flush=True)


if __name__ == "__main__":
    main()
