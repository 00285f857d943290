"""Whole studies whose latency is measured on a GPU, from the study file to an exported folder that loads there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import succeed, trials_of
from gpu import CUDA, needs_cuda
from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nasopt.records.latency import MeasuredLatency
from nasopt.records.queries import pareto_front, precision_of
from nasopt.records.trial import TrialRecord
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import open_study
from nasopt.training import loop

pytestmark = [needs_cuda, pytest.mark.integration]

WriteStudy = Callable[..., Path]
GPU = {'device = "cpu"': 'device = "cuda"'}
ALL = 'precisions = ["fp32", "bf16", "fp16", "int8", "int4"]\n'
METHODS = {
    "alphanas": "population_size = 3\ngenerations = 4\nmin_quality = 0\n",
    "taylor": 'trials = 3\nsampler = "random"\nheads = [0.25, 0.75]\nffn = [0.34, 0.67]\nsaliency_examples = 64\n',
    "bayesian": 'trials = 3\nposteriors = ["low_rank", "diagonal"]\nposterior_rank = 4\nposterior_collections = 8\n'
    "posterior_epochs = 1\nremovable_layers = [0, 1]\n",
    "adabert": "trials = 3\nhidden_size = 16\ncells = 2\nlayer_pairs = [[0, 0], [1, 2], [2, 3]]\nsearch_epochs = 2\n"
    "warmup_epochs = 1\nsearch_batch_size = 16\n",
    "fisher": 'trials = 6\nladder = 3\nlowest_share = 0.3\nexamples = 64\nprecisions = ["fp32", "bf16", "int8"]\n',
}


def complete() -> list[FrozenTrial]:
    """The complete trials; none has failed."""
    trials = study().trials
    failed = [trial.user_attrs for trial in trials if trial.state is TrialState.FAIL]
    assert not failed
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]


def study() -> Study:
    return open_study(parse_url("sqlite:///nasopt.db"), "tiny").study


def latency_of(trial: FrozenTrial) -> MeasuredLatency:
    latencies = TrialRecord.of(trial).latencies
    assert latencies is not None
    (latency,) = latencies.values()
    assert isinstance(latency, MeasuredLatency)
    return latency


def assert_loads(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder, device_map={"": 0}, trust_remote_code=True)
    batch = AutoTokenizer.from_pretrained(folder)(
        ["the film was good", "a sad plot"], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        assert model(**batch.to(CUDA)).logits.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method(study_folder: Path, write_study: WriteStudy, method: str) -> None:
    succeed("study", "create", write_study(method=method, options=METHODS[method], **GPU))
    succeed("study", "optimize", "tiny")
    trials = complete()
    assert len(trials) > 2
    for trial in trials:
        latency = latency_of(trial)
        assert latency.device == torch.cuda.get_device_name(CUDA)
        assert latency.driver
        assert latency.value_ms > 0
    smallest = min(pareto_front(study()), key=lambda trial: trial.values[2])
    succeed("study", "export", "tiny", "--trial", smallest.number, "--to", "out")
    assert_loads(study_folder / "out")


def test_a_genetic_search_in_all_precisions_by_two_workers_on_one_gpu(
    study_folder: Path, write_study: WriteStudy
) -> None:
    latency = {"threads = 1": "threads = 1\ntf32 = true\ncuda_graph = true", **GPU}
    succeed("study", "create", write_study(options=ALL, **latency))
    succeed("study", "optimize", "tiny", "--workers", 2)
    trials = complete()
    assert len(trials) > 6
    for trial in trials:
        latency = latency_of(trial)
        assert (latency.tf32, latency.cuda_graph) == (True, True)
    for number in {precision_of(trial): trial.number for trial in pareto_front(study())}.values():
        succeed("study", "export", "tiny", "--trial", number, "--to", f"out-{number}")
        assert_loads(study_folder / f"out-{number}")


def test_compiled_latency_and_peak_memory(study_folder: Path, write_study: WriteStudy) -> None:
    settings = {
        "threads = 1": 'threads = 1\nruntime = "compile"',
        'method = "genetic"': 'method = "genetic"\nmemory = "peak"',
    }
    succeed("study", "create", write_study(options='precisions = ["fp32", "bf16"]\n', **settings, **GPU))
    succeed("study", "optimize", "tiny", "--n-trials", 3)
    for trial in complete():
        memory = TrialRecord.of(trial).memory
        assert memory is not None
        assert memory.peak_mb > memory.weights_mb


def test_a_candidate_that_the_gpu_has_no_memory_for_is_its_failure_alone(
    study_folder: Path, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the allocator's own: the first step of training asks for more than the GPU has."""
    succeed("study", "create", write_study(**GPU))
    succeed("study", "optimize", "tiny", "--n-trials", 2)
    step, asked = loop._Run._step, iter([2 * torch.cuda.get_device_properties(CUDA).total_memory])

    def greedy(*arguments: object) -> None:
        torch.empty(next(asked, 0), dtype=torch.uint8, device=CUDA)
        step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop._Run, "_step", greedy)
    succeed("study", "optimize", "tiny", "--n-trials", 2)
    (failed,) = [trial for trial in trials_of() if trial["state"] == "FAIL"]
    assert "CUDA out of memory" in failed["failure"]


def test_shares_are_of_captured_graphs_where_latency_is_measured_so(
    study_folder: Path, write_study: WriteStudy
) -> None:
    """Without a graph the host's time to start kernels is all there is of a tiny layer, whatever it has left."""
    options = "trials = 3\nladder = 2\nlowest_share = 0.3\nexamples = 64\n"
    fixed = {}
    for name, more in (("plain", ""), ("graphed", "\ncuda_graph = true")):
        settings = {"threads = 1": f"threads = 1{more}", **GPU}
        succeed("study", "create", write_study(name, method="fisher", options=options, **settings))
        succeed("study", "optimize", name)
        (table,) = (study_folder / "nasopt-artifacts" / name).rglob("device-*.json")
        fixed[name] = json.loads(table.read_text())["reference_ms"]
    assert fixed["graphed"] < 0.7 * fixed["plain"]


def test_a_table_of_parts_is_measured_and_used(study_folder: Path, write_study: WriteStudy, tiny_bert: Path) -> None:
    succeed(
        "device", "profile", "--device", "cuda", "--model", tiny_bert, "--batch-size", 2, "--sequence-length", 16,
        "--seconds", 0.2, "--out", "gpu.json",
    )  # fmt: skip
    table = json.loads((study_folder / "gpu.json").read_text())
    assert table["device"] == torch.cuda.get_device_name(CUDA)
    settings = {"threads = 1": 'mode = "lut"\nlut = "gpu.json"'}
    succeed("study", "create", write_study(options='precisions = ["fp32"]\n', **settings, **GPU))
    succeed("study", "optimize", "tiny", "--n-trials", 4)
    complete()
