"""Several workers on one SQLite file: each opens it (today's way), or one process does, behind Optuna's gRPC proxy.

    pip install grpcio protobuf
    python benchmarks/proxy.py

Workers are processes; their trials sleep, with the genotype of a 6-layer model, nasopt's genetic sampler and as many
attributes as a trial of nasopt leaves. A worker begins when all of them have opened the study. What a trial takes
beyond its sleep is what the database costs: the median and the worst over all trials of all workers. "locked" counts
the errors of SQLite that name a lock, "CPU" is that of all processes, the proxy's included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import socket
import statistics
import tempfile
import threading
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, get_storage, run_grpc_proxy_server
from sampler import DIRECTIONS, evaluate, space

from nasopt.samplers import GeneticSampler
from nasopt.samplers.mutations import MUTATIONS
from nasopt.storage.rdb import open_storage, parse_url

NAME, HOST, POPULATION = "sleeping", "127.0.0.1", 20
ATTRIBUTES = {f"attribute_{index}": "x" * 100 for index in range(12)}
CONTEXT = multiprocessing.get_context("spawn")


class Told(NamedTuple):
    """What a worker tells: seconds of each trial beyond its sleep, errors that name a lock, and CPU seconds."""

    costs: list[float]
    locked: int
    cpu: float


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def quiet() -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def serve(url: str, port: int) -> None:
    """The only process that opens the file; it ends with its parent."""
    quiet()
    threading.Thread(target=end_with_parent, daemon=True).start()
    run_grpc_proxy_server(get_storage(open_storage(parse_url(url))), host=HOST, port=port)


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def work(url: str, port: int | None, trials: int, sleep: float, index: int, line: Connection) -> None:
    """One worker, which begins its trials when it is told to."""
    quiet()
    storage: BaseStorage
    storage = open_storage(parse_url(url)) if port is None else GrpcStorageProxy(host=HOST, port=port)
    sampler = GeneticSampler(population_size=POPULATION, mutations=tuple(MUTATIONS.values()), seed=index)
    study = optuna.load_study(study_name=NAME, storage=storage, sampler=sampler)
    line.send("ready")
    line.recv()
    costs, locked, before = [], 0, cpu_seconds()
    for _ in range(trials):
        start = time.monotonic()
        try:
            trial = study.ask(space())
            time.sleep(sleep)
            for name, value in ATTRIBUTES.items():
                trial.set_user_attr(name, value)
            study.tell(trial, evaluate(trial.params) or (0.0, 1e3, 1e3))
        except Exception as error:
            if "locked" not in f"{error} {error.__cause__}":
                raise
            locked += 1
        costs.append(time.monotonic() - start - sleep)
    line.send(Told(costs, locked, cpu_seconds() - before))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def cpu_of(pid: int) -> float:
    """CPU seconds of another process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(proxy: bool, workers: int, trials: int, sleep: float) -> str:
    """The row of one way and number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        study = optuna.create_study(study_name=NAME, storage=open_storage(parse_url(url)), directions=DIRECTIONS)
        port = free_port() if proxy else None
        server = CONTEXT.Process(target=serve, args=(url, port), daemon=True)
        if port is not None:
            server.start()
            GrpcStorageProxy(host=HOST, port=port).wait_server_ready(timeout=60)
        lines = []
        for index in range(workers):
            ours, its = CONTEXT.Pipe()
            CONTEXT.Process(target=work, args=(url, port, trials, sleep, index, its), daemon=True).start()
            lines.append(ours)
        for line in lines:
            line.recv()
        start, before = time.monotonic(), cpu_of(server.pid) if server.pid else 0.0
        for line in lines:
            line.send("begin")
        told: list[Told] = [line.recv() for line in lines]
        seconds = time.monotonic() - start
        cpu = sum(one.cpu for one in told) + (cpu_of(server.pid) - before if server.pid else 0.0)
        if server.pid:
            server.terminate()
            server.join()
        done = len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))
        assert done + sum(one.locked for one in told) == workers * trials, done
    costs = [1000 * cost for one in told for cost in one.costs]
    way, locked = "proxy" if proxy else "file", sum(one.locked for one in told)
    return (
        f"| {workers} | {way} | {statistics.median(costs):.0f} | {max(costs):.0f} | {len(costs) / seconds:.1f} "
        f"| {1000 * cpu / len(costs):.0f} | {locked} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=12, help="of each worker")
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds of a trial")
    parser.add_argument("--ways", nargs="+", choices=("file", "proxy"), default=["file", "proxy"])
    arguments = parser.parse_args()
    quiet()
    print("| workers | way | median, ms | worst, ms | trials/s | CPU ms/trial | locked |")
    print("|---|---|---|---|---|---|---|")
    for workers in arguments.workers:
        for way in arguments.ways:
            print(measure(way == "proxy", workers, arguments.trials, arguments.sleep), flush=True)


if __name__ == "__main__":
    main()
