"""Latency of a candidate, measured in alternation with the base model.

One measurement is one forward pass of one whole batch: no tokenisation, no transfer of inputs. Batches have one fixed,
full length, or are a sample of real ones (:mod:`nasopt.measurement.lengths`): then one measurement is the mean over all
of them, each timed in turns.
The machine may be busy and its clock may drift, so the candidate is never timed alone: candidate and base model take
turns, and the quantity that is compared between trials is the **median of the pairwise ratios**, times the base model's
latency at the start of the study (:func:`normalised_ms`). What slows both members of a pair cancels in their ratio.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.host.collection import no_collection
from nasopt.host.holding import Hold, held
from nasopt.host.pausing import at_work, stand_by, wait_for_quiet

WARM_UP_PAIRS = 3
"""Fewest pairs in one warm-up window."""
WARM_UP_WINDOW_S = 0.1
"""Shortest warm-up window in seconds: clocks need time, not a number of calls, to rise."""
WARM_UP_TOLERANCE = 0.05
"""Warm-up ends when the medians of two successive windows differ by at most this much, for both models."""
WARM_UP_SHARE = 0.5
"""Part of the time budget after which warm-up ends (after two windows in any case): a machine that never settles shows
in the interval of the ratio."""
CONFIDENCE = 0.95
"""Coverage of the interval of the ratio."""
CHECK_EVERY = 10
"""Pairs between two looks at the interval; each look costs coverage, so not after every pair."""


class MeasurementError(Exception):
    """A latency that cannot be measured or computed. It fails the trial, never the study."""


@dataclass(frozen=True)
class LatencyMeasurement:
    """Times of one forward pass of one batch.

    Args:
        median_ms: Median time of the candidate in ms.
        p10_ms: 10th percentile of the candidate's times in ms.
        p90_ms: 90th percentile of the candidate's times in ms.
        repetitions: Number of pairs that were timed.
        base_median_ms: Median time of the base model, in alternation with the candidate, in ms.
        ratio: Median of candidate / base over the pairs; below 1 is faster than the base model.
        ratio_low: Lower end of the 95 % interval of `ratio`.
        ratio_high: Upper end of the 95 % interval of `ratio`.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    repetitions: int
    base_median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def fixed_inputs(
    batch_size: int,
    sequence_length: int,
    *,
    vocab_size: int,
    special_ids: Collection[int] = (),
    device: torch.device,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A batch of random ordinary tokens at full length, the same for every call with the same arguments.

    Args:
        batch_size: Sequences in the batch.
        sequence_length: Tokens in each sequence.
        vocab_size: Ids are below this; the smaller vocabulary if the models' differ.
        special_ids: Ids that must not occur (padding would shift RoBERTa's positions).
        device: Where the batch is put.
        seed: Decides the random ids.

    Returns:
        ``input_ids`` and ``attention_mask`` (all ones), both `batch_size x sequence_length`, int64.

    Raises:
        ValueError: no ordinary id is left.
    """
    ordinary = torch.tensor(sorted(set(range(vocab_size)) - set(special_ids)), dtype=torch.int64)
    if len(ordinary) == 0:
        raise ValueError(f"`vocab_size` must leave ids that are not special, but {vocab_size} leaves none")
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(ordinary), (batch_size, sequence_length), generator=generator)
    input_ids = ordinary[picks].to(device)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def measure_latency(
    candidate: nn.Module,
    base: nn.Module,
    inputs: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    *,
    device: torch.device,
    threads: int,
    min_pairs: int = 10,
    max_pairs: int = 200,
    relative_width: float = 0.03,
    time_budget_s: float = 3.0,
) -> LatencyMeasurement:
    """Time one forward pass of `candidate` against one of `base`, in turns, with nothing else measuring on `device`.

    After warm-up, pairs are timed until the interval of the ratio is narrow, `max_pairs` are done, or the time is used
    up; `min_pairs` are always done. Both models are put into evaluation mode. The weights of an nf4 model are repacked
    in place by its first forward pass: save them before.

    Args:
        candidate: The model as it would be exported, on `device`.
        base: The base model in fp32, on `device`. May be `candidate` itself (trial 0).
        inputs: Keyword arguments of both models, without labels, on `device`; see :func:`fixed_inputs`. Or several such
            batches: a time is then the mean over them.
        device: The device to measure on.
        threads: Threads of one operation on the CPU; the process's own setting is restored.
        min_pairs: Pairs that are timed in any case.
        max_pairs: Pairs that are never exceeded.
        relative_width: Stop when the interval of the ratio is at most this part of the ratio.
        time_budget_s: Stop after this many seconds, warm-up included; waiting for the device is not.

    Raises:
        MeasurementError: a time was zero or not finite.
        ValueError: `min_pairs` below 6, the fewest that have a 95 % interval, or above `max_pairs`.
    """
    if not 6 <= min_pairs <= max_pairs:
        raise ValueError(f"`min_pairs` must be in 6..`max_pairs` ({max_pairs}), but is {min_pairs}")
    candidate.eval()
    base.eval()
    timer = _cuda_timer(device) if device.type == "cuda" else _cpu_time_ms

    batches = [inputs] if isinstance(inputs, Mapping) else inputs

    def pair(candidate_first: bool) -> tuple[float, float]:
        candidate_ms = base_ms = 0.0
        for batch in batches:
            for is_candidate in (candidate_first, not candidate_first):
                model = candidate if is_candidate else base
                taken = timer(lambda model=model, batch=batch: model(**batch))  # type: ignore[misc]
                if is_candidate:
                    candidate_ms += taken
                else:
                    base_ms += taken
        return _checked_ms(candidate_ms / len(batches)), _checked_ms(base_ms / len(batches))

    while True:
        with device_lock(device) as hold, quiet_process(threads), torch.inference_mode():
            pairs = _measured_pairs(pair, min_pairs, max_pairs, relative_width, time_budget_s)
        if not hold.suspended:  # else it stood still in the middle, and others measured
            return summarise(pairs)


def _measured_pairs(
    pair: Callable[[bool], tuple[float, float]],
    min_pairs: int,
    max_pairs: int,
    relative_width: float,
    time_budget_s: float,
) -> list[tuple[float, float]]:
    start = time.monotonic()
    _warm_up(pair, deadline=start + WARM_UP_SHARE * time_budget_s)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < max_pairs:
        # The models take turns at going first, so that what one leaves in the caches favours neither.
        pairs.append(pair(len(pairs) % 2 == 0))
        if len(pairs) >= min_pairs and (
            time.monotonic() - start > time_budget_s
            or (len(pairs) % CHECK_EVERY == 0 and _is_narrow(pairs, relative_width))
        ):
            break
    return pairs


def summarise(pairs: Sequence[tuple[float, float]]) -> LatencyMeasurement:
    """The measurement from its pairs of times in ms, `(candidate, base)`; at least 6 pairs."""
    candidate = torch.tensor([times[0] for times in pairs], dtype=torch.float64)
    base = torch.tensor([times[1] for times in pairs], dtype=torch.float64)
    ratios = candidate / base
    low, high = median_interval(ratios.tolist())
    return LatencyMeasurement(
        median_ms=candidate.quantile(0.5).item(),
        p10_ms=candidate.quantile(0.1).item(),
        p90_ms=candidate.quantile(0.9).item(),
        repetitions=len(pairs),
        base_median_ms=base.quantile(0.5).item(),
        ratio=ratios.quantile(0.5).item(),
        ratio_low=low,
        ratio_high=high,
    )


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Distribution-free confidence interval of the median: the sign test's, between two order statistics.

    The interval from the k-th smallest to the k-th largest of `n` values misses the median with probability
    `2 P(Binomial(n, 1/2) < k)`; k is the largest for which that is at most `1 - confidence`.

    Raises:
        ValueError: too few values for any such interval (below 6 for 95 %).
    """
    count = len(values)
    missed, rank = 0.0, 0
    while True:
        missed += 2 * math.comb(count, rank) / 2**count
        if missed > 1 - confidence:
            break
        rank += 1
    if rank == 0:
        raise ValueError(f"`values` are too few for a {confidence:.0%} interval of the median: {count}")
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]


def normalised_ms(ratio: float, reference_ms: float) -> float:
    """The latency that is stored as an objective, in ms: `ratio` x the base model's latency when the study began.

    Args:
        ratio: Candidate / base, measured in alternation.
        reference_ms: The base model's median in ms at trial 0.

    Raises:
        MeasurementError: one of them is not finite and positive.
    """
    return _checked_ms(ratio) * _checked_ms(reference_ms)


def lock_path(device: torch.device) -> Path:
    """The lock file of the physical `device`, in the host's folder for temporary files."""
    key = torch.cuda.get_device_properties(device).uuid if device.type == "cuda" else device.type
    return Path(tempfile.gettempdir()) / f"nasopt-measurement-{key}.lock"


@contextmanager
def device_lock(device: torch.device) -> Iterator[Hold]:
    """Hold `device` for one measurement, with what computes on it standing still; others that measure wait.

    See :mod:`nasopt.host.pausing`.
    """
    stand_by()
    with held(lock_path(device)) as hold:
        wait_for_quiet(lock_path(device))
        yield hold


def computing(device: torch.device) -> AbstractContextManager[None]:
    """What this process does on `device` and on the CPU stands still between its steps while others measure there."""
    return at_work({lock_path(device), lock_path(torch.device("cpu"))})


def _warm_up(pair: Callable[[bool], tuple[float, float]], deadline: float) -> None:
    """Run windows of pairs until the medians of two successive ones agree, for both models, or until `deadline`."""
    previous = _window_medians(pair)
    while True:
        medians = _window_medians(pair)
        settled = all(
            abs(now - before) <= WARM_UP_TOLERANCE * before for now, before in zip(medians, previous, strict=True)
        )
        if settled or time.monotonic() > deadline:
            return
        previous = medians


def _window_medians(pair: Callable[[bool], tuple[float, float]]) -> list[float]:
    """Median times in ms, `[candidate, base]`, of one warm-up window."""
    start = time.monotonic()
    times: list[tuple[float, float]] = []
    while len(times) < WARM_UP_PAIRS or time.monotonic() - start < WARM_UP_WINDOW_S:
        times.append(pair(len(times) % 2 == 0))
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _is_narrow(pairs: Sequence[tuple[float, float]], relative_width: float) -> bool:
    measured = summarise(pairs)
    return measured.ratio_high - measured.ratio_low <= relative_width * measured.ratio


def _cpu_time_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_timer(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """A timer between two events on the current stream of `device`; the device is idle before and after."""

    def time_ms(call: Callable[[], object]) -> float:
        with torch.cuda.device(device):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            return float(start.elapsed_time(end))

    return time_ms


def _checked_ms(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise MeasurementError(f"a latency must be finite and positive, but {value} was measured")
    return value


@contextmanager
def quiet_process(threads: int) -> Iterator[None]:
    """Runs with `threads` threads and without garbage collection, and restores both settings afterwards."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with no_collection():
            yield
    finally:
        torch.set_num_threads(threads_before)
