"""Latency in alternation. Where times are compared, models take the time of a clock that the test turns on; what a real
clock says of real models is compared with a margin that no busy machine uses up."""

import gc
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu import needs_cuda
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from nasopt.measurement.measured import latency
from nasopt.measurement.measured.latency import (
    LatencyMeasurement,
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
NEVER = -1.0
"""Relative width that no interval has: the limits of pairs and of time decide."""

HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""

WORKER = """
import torch
from nasopt.host.pausing import pause_for_measurements
from nasopt.measurement.measured.latency import computing
matrix = torch.rand(500, 500)
with computing(torch.device("cpu")):
    print("at work", flush=True)
    while True:
        pause_for_measurements()
        matrix @ matrix
"""


class Clock:
    """Time that passes only where a model says so."""

    def __init__(self) -> None:
        self.ns = 0

    def monotonic(self) -> float:
        return self.ns / 1e9

    def perf_counter_ns(self) -> int:
        return self.ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that measurements of this test look at."""
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


class Timed(nn.Module):
    """A model of known speed, in ms, that writes down how it was called."""

    def __init__(self, name: str, ms: float, clock: Clock, calls: list[str]) -> None:
        super().__init__()
        self.name, self.ms, self.clock, self.calls = name, ms, clock, calls
        self.seen: set[tuple[object, ...]] = set()

    def slowness(self) -> float:
        """The factor by which this call takes longer than it should."""
        return 1.0

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
        self.clock.ns += round(self.ms * self.slowness() * 1e6)


class Drifting(Timed):
    """A model on a machine that becomes slower and slower."""

    def slowness(self) -> float:
        return 1 + self.clock.monotonic()


@pytest.fixture(autouse=True)
def own_lock_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bert(layers: int, hidden_size: int = 32) -> BertForSequenceClassification:
    config = BertConfig(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden_size,
        vocab_size=100,
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


def test_ratio_of_models_of_known_speed(clock: Clock) -> None:
    fast, slow = Timed("fast", 2, clock, []), Timed("slow", 8, clock, [])
    measured = measure_latency(fast, slow, {}, device=CPU, threads=1, max_pairs=20)
    assert measured.p10_ms == measured.median_ms == measured.p90_ms == pytest.approx(2)
    assert measured.base_median_ms == pytest.approx(8)
    assert measured.ratio_low == measured.ratio == measured.ratio_high == pytest.approx(0.25)


def test_what_slows_both_models_does_not_change_their_ratio(clock: Clock) -> None:
    fast, slow = Drifting("fast", 2, clock, []), Drifting("slow", 8, clock, [])
    measured = measure_latency(fast, slow, {}, device=CPU, threads=1, relative_width=NEVER, time_budget_s=3.0)
    assert measured.p90_ms > 1.3 * measured.p10_ms
    assert measured.ratio == pytest.approx(0.25, rel=0.02)
    assert measured.ratio_low <= measured.ratio <= measured.ratio_high


def test_models_take_turns_and_who_is_first_changes(clock: Clock) -> None:
    calls: list[str] = []
    first, second = Timed("candidate", 1, clock, calls), Timed("base", 1, clock, calls)
    measured = measure_latency(first, second, {}, device=CPU, threads=1, max_pairs=12, relative_width=NEVER)
    assert measured.repetitions == 12
    timed = calls[-24:]
    assert timed == ["candidate", "base", "base", "candidate"] * 6
    assert len(calls) > 24, "the models were warmed up"


@pytest.mark.usefixtures("threads_kept")
def test_state_while_measuring_and_afterwards(clock: Clock) -> None:
    torch.set_num_threads(1)
    inputs = fixed_inputs(2, 4, vocab_size=10, device=CPU)
    models = [Timed("candidate", 1, clock, []), Timed("base", 1, clock, [])]
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


def test_stops_when_narrow_and_when_the_time_is_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(model: type[Timed] = Timed, **limits: float) -> int:
        clock.ns = 0
        models = model("candidate", 2, clock, []), model("base", 2, clock, [])
        return measure_latency(*models, {}, device=CPU, threads=1, **limits).repetitions  # type: ignore[arg-type]

    monkeypatch.setattr(latency, "WARM_UP_WINDOW_S", 0.1)
    assert measure(relative_width=10.0) == 10
    # Two windows of warm-up take 0.1 s each; then a pair takes 4 ms.
    assert measure(relative_width=NEVER, max_pairs=100_000, time_budget_s=0.5) == pytest.approx(75, abs=2)
    assert clock.monotonic() == pytest.approx(0.5, abs=0.005)


def test_a_machine_that_does_not_settle_is_measured_after_half_of_the_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "WARM_UP_WINDOW_S", 0.1)
    # Up to 1 s, each window of 0.1 s is more than 5 % slower than the one before;
    # a pair takes 7.2 to 10.4 ms after 0.8 s.
    models = Drifting("candidate", 2, clock, []), Drifting("base", 2, clock, [])
    measured = measure_latency(*models, {}, device=CPU, threads=1, relative_width=NEVER, time_budget_s=1.6)
    assert 0.7 / 0.0104 < measured.repetitions < 0.8 / 0.0072


@pytest.mark.parametrize("limits", [{"min_pairs": 5}, {"min_pairs": 20, "max_pairs": 19}])
def test_too_few_pairs_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="`min_pairs` must be in 6"):
        measure_latency(nn.Identity(), nn.Identity(), {}, device=CPU, threads=1, **limits)


def test_fewer_layers_are_faster() -> None:
    """Really measured: one layer against twenty-four, of which it takes about a fifteenth of the time."""
    inputs = fixed_inputs(4, 32, vocab_size=100, special_ids=[0], device=CPU)
    assert measure_latency(bert(1), bert(24), inputs, device=CPU, threads=1, max_pairs=20).ratio < 0.7


def test_the_base_model_against_itself(clock: Clock) -> None:
    model = Drifting("itself", 2, clock, [])
    measured = measure_latency(model, model, {}, device=CPU, threads=1)
    assert measured.ratio == pytest.approx(1, abs=0.01)
    assert measured.ratio_low <= measured.ratio <= measured.ratio_high
    assert measured.median_ms == pytest.approx(measured.base_median_ms, rel=0.01)


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
        waiter.join(120)  # a lock that is stale would never be had
        assert acquired.is_set(), "the lock of a dead process is not stale"


@pytest.mark.slow
def test_medians_with_a_worker_that_trains_are_those_without_it() -> None:
    """Really measured, with a process beside it that computes on all cores whenever it may."""
    inputs = fixed_inputs(8, 64, vocab_size=100, special_ids=[0], device=CPU)
    candidate, base = bert(3, 256), bert(12, 256)

    def measured() -> LatencyMeasurement:
        return measure_latency(candidate, base, inputs, device=CPU, threads=1, relative_width=0.01, time_budget_s=10)

    alone = measured()
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"at work\n"
        together = measured()
        worker.kill()
    assert together.ratio == pytest.approx(alone.ratio, rel=0.05)


def test_every_user_may_open_the_lock_file() -> None:
    umask = os.umask(0o077)
    try:
        with device_lock(CPU):
            assert stat.S_IMODE(lock_path(CPU).stat().st_mode) == 0o666
    finally:
        os.umask(umask)


@needs_cuda
def test_on_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    inputs = fixed_inputs(4, 32, vocab_size=100, special_ids=[0], device=device)
    measured = measure_latency(bert(1).to(device), bert(6).to(device), inputs, device=device, threads=1)
    assert measured.ratio < 0.9
    assert str(torch.cuda.get_device_properties(device).uuid) in lock_path(device).name
