import gc
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from nasopt.measurement.measured import latency
from nasopt.measurement.measured.latency import (
    MeasurementError,
    device_lock,
    fixed_inputs,
    lock_path,
    measure_latency,
    median_interval,
    normalised_ms,
    summarise,
)

CPU = torch.device("cpu")

HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


class Sleeper(nn.Module):
    """A model of known speed that writes down how it was called."""

    def __init__(self, name: str, seconds: float, calls: list[str]) -> None:
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, calls
        self.seen: set[tuple[object, ...]] = set()

    def forward(self, **inputs: Tensor) -> None:
        self.calls.append(self.name)
        state = (
            tuple(inputs),
            self.training,
            torch.is_inference_mode_enabled(),
            torch.get_num_threads(),
            gc.isenabled(),
        )
        self.seen.add(state)
        time.sleep(self.seconds)


@pytest.fixture(autouse=True)
def own_lock_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bert(layers: int) -> BertForSequenceClassification:
    config = BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=128, vocab_size=100
    )
    return BertForSequenceClassification(config)


def test_inputs_are_fixed_full_length_and_ordinary() -> None:
    inputs = fixed_inputs(8, 64, vocab_size=20, special_ids=[0, 1, 2, 19, 500], device=CPU)
    again = fixed_inputs(8, 64, vocab_size=20, special_ids=(0, 1, 2, 19, 500), device=CPU)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (8, 64)
    assert inputs["input_ids"].dtype == torch.int64
    assert set(inputs["input_ids"].unique().tolist()) == set(range(3, 19))
    assert inputs["attention_mask"].eq(1).all()
    assert torch.equal(inputs["input_ids"], again["input_ids"])
    other = fixed_inputs(8, 64, vocab_size=20, special_ids=[0, 1, 2, 19], device=CPU, seed=1)
    assert not torch.equal(inputs["input_ids"], other["input_ids"])


def test_inputs_need_an_ordinary_token() -> None:
    with pytest.raises(ValueError, match="2 leaves none"):
        fixed_inputs(1, 4, vocab_size=2, special_ids=[0, 1], device=CPU)


# Ranks from published tables of the sign test at 95 % (k-th smallest to k-th largest).
@pytest.mark.parametrize(("count", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (30, 10), (100, 40)])
def test_interval_of_the_median_is_the_sign_tests(count: int, rank: int) -> None:
    values = np.random.default_rng(0).permutation(count) + 1.0
    assert median_interval(values.tolist()) == (rank, count + 1 - rank)


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(2000, 25))
    intervals = [median_interval(sample.tolist()) for sample in samples]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert 0.945 <= covered <= 0.98


def test_interval_needs_six_values() -> None:
    with pytest.raises(ValueError, match="too few"):
        median_interval([1.0] * 5)


def test_summary_pairs_the_times() -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(10, 100, size=31)
    candidate = base * generator.uniform(0.4, 0.6, size=31)
    measured = summarise(list(zip(candidate, base, strict=True)))
    assert measured.median_ms == pytest.approx(np.median(candidate))
    assert measured.p10_ms == pytest.approx(np.percentile(candidate, 10))
    assert measured.p90_ms == pytest.approx(np.percentile(candidate, 90))
    assert measured.base_median_ms == pytest.approx(np.median(base))
    assert measured.ratio == pytest.approx(np.median(candidate / base)), (
        "the median of ratios, not the ratio of medians"
    )
    assert measured.ratio_low <= measured.ratio <= measured.ratio_high
    assert measured.repetitions == 31
    assert measured.to_dict()["ratio"] == measured.ratio


def test_ratio_of_models_of_known_speed() -> None:
    calls: list[str] = []
    fast, slow = Sleeper("fast", 0.002, calls), Sleeper("slow", 0.008, calls)
    measured = measure_latency(fast, slow, {}, device=CPU, threads=1, max_pairs=20)
    assert measured.median_ms >= 2
    assert measured.base_median_ms >= 8
    assert 0.1 < measured.ratio < 0.6
    assert measured.p10_ms <= measured.median_ms <= measured.p90_ms


def test_models_take_turns_and_who_is_first_changes() -> None:
    calls: list[str] = []
    first, second = Sleeper("candidate", 0.001, calls), Sleeper("base", 0.001, calls)
    measured = measure_latency(first, second, {}, device=CPU, threads=1, max_pairs=12, relative_width=0.0)
    assert measured.repetitions == 12
    timed = calls[-24:]
    assert timed == ["candidate", "base", "base", "candidate"] * 6
    assert len(calls) > 24, "the models were warmed up"


@pytest.mark.usefixtures("threads_kept")
def test_state_while_measuring_and_afterwards() -> None:
    torch.set_num_threads(1)
    inputs = fixed_inputs(2, 4, vocab_size=10, device=CPU)
    models = [Sleeper("candidate", 0.001, []), Sleeper("base", 0.001, [])]
    measure_latency(models[0], models[1], inputs, device=CPU, threads=2, max_pairs=10)
    for model in models:
        assert model.seen == {(("input_ids", "attention_mask"), False, True, 2, False)}
    assert torch.get_num_threads() == 1
    assert gc.isenabled()


@pytest.mark.usefixtures("threads_kept")
def test_state_is_restored_and_the_device_freed_when_a_model_fails() -> None:
    torch.set_num_threads(1)
    failing = nn.Linear(2, 2)
    with pytest.raises(TypeError):
        measure_latency(failing, failing, {"unknown": torch.zeros(1)}, device=CPU, threads=2)
    assert torch.get_num_threads() == 1
    assert gc.isenabled()
    with device_lock(CPU):
        pass


def test_stops_when_narrow_and_when_the_time_is_up() -> None:
    def measure(**limits: float) -> int:
        calls: list[str] = []
        models = Sleeper("candidate", 0.002, calls), Sleeper("base", 0.002, calls)
        return measure_latency(*models, {}, device=CPU, threads=1, **limits).repetitions  # type: ignore[arg-type]

    assert measure(relative_width=10.0) == 10
    start = time.monotonic()
    assert 10 <= measure(relative_width=0.0, max_pairs=100_000, time_budget_s=0.5) < 100
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("limits", [{"min_pairs": 5}, {"min_pairs": 20, "max_pairs": 19}])
def test_too_few_pairs_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="`min_pairs` must be in 6"):
        measure_latency(nn.Identity(), nn.Identity(), {}, device=CPU, threads=1, **limits)


def test_fewer_layers_are_faster() -> None:
    inputs = fixed_inputs(4, 32, vocab_size=100, special_ids=[0], device=CPU)
    measured = measure_latency(bert(1), bert(6), inputs, device=CPU, threads=1)
    assert measured.ratio < 0.6
    assert measured.ratio_high < 1


def test_the_base_model_against_itself() -> None:
    model = bert(2)
    inputs = fixed_inputs(4, 32, vocab_size=100, special_ids=[0], device=CPU)
    measured = measure_latency(model, model, inputs, device=CPU, threads=1)
    assert measured.ratio == pytest.approx(1, abs=0.25)
    assert measured.ratio_low <= measured.ratio <= measured.ratio_high
    assert measured.median_ms == pytest.approx(measured.base_median_ms, rel=0.25)


def test_a_clock_that_stands_still_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: 7)
    with pytest.raises(MeasurementError, match="finite and positive, but 0"):
        measure_latency(nn.Identity(), nn.Identity(), {"input": torch.zeros(1)}, device=CPU, threads=1)


def test_normalised_latency_is_the_ratio_at_the_studys_start() -> None:
    assert normalised_ms(0.5, 60.0) == pytest.approx(30.0)
    for ratio, reference in [(0.0, 60.0), (float("nan"), 60.0), (0.5, float("inf")), (-0.5, 60.0), (0.5, 0.0)]:
        with pytest.raises(MeasurementError, match="finite and positive"):
            normalised_ms(ratio, reference)


def test_a_killed_holder_frees_the_device() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock_path(CPU))], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        acquired = threading.Event()

        def wait_for_the_device() -> None:
            with device_lock(CPU):
                acquired.set()

        waiter = threading.Thread(target=wait_for_the_device)
        waiter.start()
        assert not acquired.wait(0.3), "only one measurement at a time"
        holder.send_signal(signal.SIGKILL)
        waiter.join(10)
        assert acquired.is_set(), "the lock of a dead process is not stale"


def test_every_user_may_open_the_lock_file() -> None:
    umask = os.umask(0o077)
    try:
        with device_lock(CPU):
            assert stat.S_IMODE(lock_path(CPU).stat().st_mode) == 0o666
    finally:
        os.umask(umask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    inputs = fixed_inputs(4, 32, vocab_size=100, special_ids=[0], device=device)
    measured = measure_latency(bert(1).to(device), bert(6).to(device), inputs, device=device, threads=1)
    assert measured.ratio < 0.6
    assert str(torch.cuda.get_device_properties(device).uuid) in lock_path(device).name
