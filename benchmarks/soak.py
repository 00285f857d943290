"""A long search by several workers on PostgreSQL, one of which is killed (-9) again and again.

    python benchmarks/soak.py                        # 500 trials, 4 workers, one killed for every 20 trials
    python benchmarks/soak.py --trials 100 --write benchmarks/results/soak.md

It checks that the search ends with all its results and none twice, that every interrupted trial was tried again and no
worker is left behind, that the disk that checkpoints take is bounded, and that trials do not get slower. The server is
that of the tests (`pip install 'nasopt[dev]'`); model and data are made in code, and tiny;
latency is predicted, so that trials do not wait for each other's measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from nasopt.records import queries
from nasopt.records.interruption import was_interrupted
from nasopt.samplers.history import parent_of, proposed_params
from nasopt.storage.rdb import open_storage, parse_url
from nasopt.testing.small_data import write_bert, write_labelled_texts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import running_server

STUDY = """
name = "soak"
method = "genetic"
seed = 1
[task]
model = "{model}"
metric = "accuracy"
max_length = 16
[task.dataset]
path = "{data}"
text = ["text"]
label = "label"
splits = {{ train = "train", validation = "validation", test = "test" }}
[training]
batch_size = 64
learning_rate = 1e-3
[base_training]
epochs = 2
batch_size = 16
learning_rate = 3e-3
[latency]
device = "a100-40gb"
batch_size = 1
sequence_length = 8
[method_options]
population_size = {population}
generations = {generations}
start = "base"
quantization_prob = 0
mutations = ["remove_any_layer", "remove_any_heads", "remove_ffn", "restore"]
"""
POPULATION = 10
LOOK_SECONDS = 0.5
FLAT = 1.5
"""The last quarter of the trials may take this much longer each than the second one, on a machine that others use."""


@dataclass
class Watch:
    """What was seen while the search ran.

    Attributes:
        disk: MB of the study's files, again and again.
        spare: models that were kept, less the most that may be: those of the front, of the population, the base
            model's, and for each worker its trial's, the parent's and one that is not deleted yet.
        killed: how many trials were done when a worker was killed.
        seconds: of the whole search.
    """

    disk: list[float] = field(default_factory=list)
    spare: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-every", type=int, default=20, help="Trials between two kills; 0 for none.")
    parser.add_argument("--write", type=Path, help="Markdown file for the result.")
    options = parser.parse_args()
    with running_server() as server, tempfile.TemporaryDirectory() as folder:
        url = server.new_database()
        watch, trials, said = search(url, Path(folder), options)
    report, failed = judge(trials, watch, options)
    if said.strip():
        print(said, file=sys.stderr)
    print(report)
    if options.write is not None:
        options.write.write_text(report)
    sys.exit(f"not as promised: {'; '.join(failed)}" if failed else 0)


def search(url: str, folder: Path, options: argparse.Namespace) -> tuple[Watch, list[FrozenTrial], str]:
    """Runs the whole search in one command; what happened, its trials and what it printed besides results."""
    model, data = write_bert(folder / "model"), write_labelled_texts(folder / "data")
    text = STUDY.format(model=model, data=data, population=POPULATION, generations=-(-options.trials // POPULATION))
    (folder / "soak.toml").write_text(text)
    environment = {**os.environ, "NASOPT_STORAGE": url, "OMP_NUM_THREADS": "1"}
    nasopt = [sys.executable, "-m", "nasopt", "study"]
    subprocess.run([*nasopt, "create", "soak.toml"], cwd=folder, env=environment, check=True)
    log = (folder / "log").open("w")
    optimize = [*nasopt, "optimize", "soak", "--n-trials", options.trials, "--workers", options.workers]
    started = time.monotonic()
    process = subprocess.Popen([*map(str, optimize)], cwd=folder, env=environment, stderr=log)
    study = optuna.load_study(study_name="soak", storage=open_storage(parse_url(url)))
    watch = Watch()
    try:
        while process.poll() is None:
            look(study, process.pid, folder / "nasopt-artifacts", watch, options)
            time.sleep(LOOK_SECONDS)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    watch.seconds = time.monotonic() - started
    said = [line for line in (folder / "log").read_text().splitlines() if not line.startswith("trial ")]
    left = [child for child in psutil.process_iter() if child.pid in {pid_of(trial) for trial in study.trials}]
    if process.returncode != 0 or left:
        said.append(f"exit code {process.returncode}; processes left behind: {left}")
    return watch, study.get_trials(), "\n".join(said)


def look(study: optuna.Study, parent: int, artifacts: Path, watch: Watch, options: argparse.Namespace) -> None:
    """Notes how things stand, and kills a worker that has a trial under way if it is time for that."""
    done = len(queries.finished_trials(study))
    # NOTE: `Path.rglob` fails where a folder goes while it looks.
    files = [Path(folder, name) for folder, _, names in os.walk(artifacts) for name in names]
    watch.disk.append(sum(size_of(path) for path in files) / 1e6)
    kept = sum(path.suffix == ".safetensors" and path.parent.name == "checkpoints" for path in files)
    watch.spare.append(kept - len(queries.pareto_front(study)) - POPULATION - 1 - 3 * options.workers)
    if not options.kill_every or done < options.kill_every * (len(watch.killed) + 1):
        return
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    workers = [pid for trial in running if (pid := pid_of(trial)) is not None and pid != parent]
    if workers:
        victim = random.choice(workers)
        if psutil.pid_exists(victim):
            os.kill(victim, signal.SIGKILL)
            watch.killed.append(done)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if it has just been removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def pid_of(trial: FrozenTrial) -> int | None:
    worker: Mapping[str, Any] | None = queries.worker_of(trial)
    return None if worker is None else int(worker["pid"])


def judge(trials: Sequence[FrozenTrial], watch: Watch, options: argparse.Namespace) -> tuple[str, list[str]]:
    """The report, and what is not as it should be."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and not queries.is_base(trial)]
    interrupted = [trial for trial in trials if was_interrupted(trial)]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and not was_interrupted(trial)]
    retried = queries.retried(trials)
    # One that was killed before it had parameters left nothing that could be tried again.
    to_retry = {t.number for t in interrupted if queries.is_interrupted(t) and (t.params or proposed_params(t))}
    identities = {(json.dumps(trial.params, sort_keys=True), parent_of(trial)) for trial in complete}
    repeats = sum(queries.is_repeat(trial) for trial in complete)
    unsettled = [trial for trial in trials if not trial.state.is_finished()]
    quarters = [part for part in split(complete, 4) if part]
    seconds = [statistics.median(t.duration.total_seconds() for t in part if t.duration) for part in quarters]
    disk = [max(part, default=0.0) for part in split(watch.disk, 4)]
    checks = {
        f"{len(complete)} complete, {len(failed)} failed by themselves, of {options.trials}": (
            len(complete) + len(failed) >= options.trials
        ),
        f"{len(complete) - len(identities)} of them done twice ({repeats} took over an earlier one's values)": (
            len(identities) == len(complete)
        ),
        f"{len(watch.killed)} workers killed; {len(interrupted)} trials interrupted, {len(to_retry)} of them with "
        f"parameters, {len(retried)} tried again": to_retry == retried,
        f"{len(unsettled)} trials left running or waiting": not unsettled,
        f"no more models kept than front, population and workers need ({-max(watch.spare)} fewer, at least)": (
            max(watch.spare) <= 0
        ),
        "MB of the study's files at most, by quarters of the time: " + ", ".join(f"{size:.1f}" for size in disk): True,
        "seconds of a trial, median, by quarters: " + ", ".join(f"{value:.2f}" for value in seconds): (
            len(seconds) == 4 and seconds[3] <= FLAT * seconds[1]
        ),
    }
    rows = "\n".join(f"| {text} | {'yes' if held else '**no**'} |" for text, held in checks.items())
    title = f"{options.trials} trials, {options.workers} workers, one killed for every {options.kill_every} trials"
    report = f"""# A soak: {title}

{platform.machine()}, {os.cpu_count()} cores shared with other work, PostgreSQL beside it, a BERT of 3 layers,
{time.strftime("%Y-%m-%d")}. The whole search took {watch.seconds / 60:.1f} minutes, in one command.

```
python benchmarks/soak.py --trials {options.trials} --workers {options.workers} --kill-every {options.kill_every}
```

| seen | as promised |
|---|---|
{rows}
"""
    return report, [text for text, held in checks.items() if not held]


def split(items: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Parts of almost equal length, in order."""
    return [items[len(items) * part // count : len(items) * (part + 1) // count] for part in range(count)]


if __name__ == "__main__":
    main()
