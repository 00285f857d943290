"""Measures how far two measurements of the same model differ on a busy machine.

    python benchmarks/repeatability.py --model MODEL --rounds 8

Processes that compute without end keep `--busy` cores busy. The candidate (the base model's first half of layers) is
measured against the base model twice, one after the other, and the two median ratios are compared; once with as many
threads as cores are free, once with as many as there are cores. A measurement takes at least 100 alternated pairs, and
ends when the 95 % interval of the ratio is `--width` wide, or at `--pairs`.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `nasopt` itself does; read when torch is imported

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.measurement.device import device_name
from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
from nasopt.models.families import encoder_shape
from nasopt.models.surgery import cut

CPU = torch.device("cpu")
TARGETS = {"threads <= free cores": 0.03, "all cores": 0.10}


def compute(stop: Event) -> None:
    """Keeps one core busy, with its vector units and caches, as training does."""
    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024)
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        matrix = torch.tanh(matrix @ matrix / 1024)


@contextmanager
def load(processes: int) -> Iterator[None]:
    """`processes` busy processes."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = [context.Process(target=compute, args=(stop,)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    time.sleep(5)  # they have to import torch
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def half(base: PreTrainedModel) -> PreTrainedModel:
    """The first half of the layers."""
    layers = encoder_shape(base.config).num_layers
    mask = [int(layer < layers // 2) for layer in range(layers)]
    return cut(copy.deepcopy(base), Architecture.masked(encoder_shape(base.config), mask)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--busy", type=int, default=1, help="busy processes")
    parser.add_argument("--rounds", type=int, default=8, help="pairs of measurements")
    parser.add_argument("--pairs", type=int, default=400, help="alternated pairs in one measurement at most")
    parser.add_argument("--width", type=float, default=0.02, help="width of the interval, as part of the ratio")
    parser.add_argument("--seconds", type=float, default=60, help="length of one measurement at most")
    chosen = parser.parse_args()

    base = AutoModelForSequenceClassification.from_pretrained(
        chosen.model, num_labels=2, dtype=torch.float32, trust_remote_code=False
    ).eval()
    candidate = half(base)
    inputs = fixed_inputs(chosen.batch_size, chosen.sequence_length, vocab_size=base.config.vocab_size, device=CPU)
    cores = len(os.sched_getaffinity(0))
    print(f"{device_name(CPU)}, {cores} cores, {chosen.busy} busy; torch {torch.__version__}", flush=True)
    print(f"{chosen.batch_size} x {chosen.sequence_length} tokens, load {os.getloadavg()[0]:.1f} before", flush=True)

    def measure(threads: int) -> tuple[float, int, float]:
        start = time.monotonic()
        found = measure_latency(
            candidate,
            base,
            inputs,
            device=CPU,
            threads=threads,
            min_pairs=100,
            max_pairs=chosen.pairs,
            relative_width=chosen.width,
            time_budget_s=chosen.seconds,
        )
        return found.ratio, found.repetitions, time.monotonic() - start

    with load(chosen.busy):
        for label, threads in {"threads <= free cores": max(1, cores - chosen.busy), "all cores": cores}.items():
            differences, pairs, seconds = [], [], []
            for number in range(chosen.rounds):
                (first, one, took), (second, other, again) = measure(threads), measure(threads)
                differences.append(abs(first / second - 1))
                pairs += [one, other]
                seconds += [took, again]
                print(
                    f"{label}, {threads}: round {number}: {first:.4f} {second:.4f}, {one} and {other} pairs", flush=True
                )
            print(
                f"{label} ({threads} threads): difference median {statistics.median(differences):.2%}, "
                f"largest {max(differences):.2%} of {len(differences)} (target {TARGETS[label]:.0%}); "
                f"pairs {statistics.median(pairs):.0f}, {statistics.median(seconds):.1f} s a measurement",
                flush=True,
            )


if __name__ == "__main__":
    main()
