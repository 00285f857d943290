"""Workers spread over a list of GPUs, which need not be there: nothing runs on them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from command_line import succeed
from processes import tell_environment

from nasopt.execution.devices import VISIBLE, start_on, threads_of_each, usual_workers, visible_gpus
from nasopt.records.trial import TrialRecord


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 3, ("0", "1", "2")),
        ("2, 0", 2, ("2", "0")),
        ("GPU-8f2,MIG-1a", 2, ("GPU-8f2", "MIG-1a")),
        ("0,1,-1,2", 2, ("0", "1")),  # what stands behind a name that does not exist counts for nothing
        ("", 0, ()),
        (None, 0, ()),
    ],
)
def test_gpus_are_those_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, expected: tuple[str, ...]
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(VISIBLE, named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == expected
    assert usual_workers() == max(1, len(expected))


@pytest.mark.parametrize("named", [None, "2,0"])
def test_workers_spread_evenly_each_on_one_gpu(monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(VISIBLE, named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus, context, seen = visible_gpus(), multiprocessing.get_context("spawn"), []
    for index in (0, 1, 2, 1):  # the last one replaces a worker that died
        ours, its = context.Pipe()
        process = context.Process(target=tell_environment, args=(its, VISIBLE))
        start_on(process, index, gpus)
        seen.append(ours.recv())
        process.join()
    assert seen == [gpus[0], gpus[1], gpus[0], gpus[1]]
    assert os.environ.get(VISIBLE) == named, "the parent still sees all of them"


def test_without_gpus_nothing_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=tell_environment, args=(its, VISIBLE))
    start_on(process, 0, visible_gpus())
    assert ours.recv() == ""
    process.join()


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [threads_of_each(workers) for workers in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


@pytest.mark.integration
@pytest.mark.slow
def test_every_gpu_gets_a_worker_unless_it_is_said(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs that are not there: their workers run on the CPU."""
    monkeypatch.chdir(tmp_path)
    succeed("study", "create", write_study())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for options, processes in ((("--workers", 1), 1), ((), 2)):
        result = succeed("study", "optimize", "tiny", "--n-trials", 4, *options)
        assert ("2 GPUs: a worker on each" in result.err) == (processes == 2)
        trials = optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db").trials[-4:]
        workers = [TrialRecord.of(trial).worker for trial in trials]
        assert len({worker["pid"] for worker in workers if worker is not None}) == processes
