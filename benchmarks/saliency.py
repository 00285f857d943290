"""Measures what removing heads and neurons costs before any training: by saliency, in several readings, and at random.

The ranking loss of a sentence encoder on validation pairs after a share of its heads, of its FFN neurons, or of both
is removed. Random units have the same counts in each layer as the global ranking by gates.

Usage: python benchmarks/saliency.py STUDY.toml [--pairs 256] [--keep 0.5] [--seeds 3]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.methods.taylor.estimates import estimate_saliency
from nasopt.models.saliency import Reading, Saliency, keep_salient, prune_iteratively, random_units
from nasopt.models.surgery import cut
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Examples, sorted_batches
from nasopt.tasks.opening import open_task
from nasopt.training.loop import autocast
from nasopt.training.samples import SampleSettings

CPU = torch.device("cpu")
ROUNDS = 4


@torch.no_grad()
def mean_loss(model: PreTrainedModel, task: Task, split: Examples, pairs: int, batch_size: int) -> float:
    """The task's loss over the first pairs of a split."""
    losses = []
    for positions in sorted_batches(split.lengths[:pairs], batch_size):
        with autocast(CPU):
            losses.append(float(task.training_loss(model.eval(), split.batch(positions))))
    return statistics.fmean(losses)


class Bench:
    """A study's data and base model, and what removal does to them.

    Args:
        config: the study's configuration.
        pairs: the number of pairs on which losses, and saliency, are estimated.
    """

    def __init__(self, config: StudyConfig, pairs: int) -> None:
        self._task, self._pairs = open_task(config), pairs
        with tempfile.TemporaryDirectory() as folder:
            self._splits = self._task.encode(Path(folder))
        self._settings = SampleSettings(pairs, config.training.batch_size, config.seed)
        self.base, self.shape = self._task.load_model(), self._task.shape

    def saliency(self, reading: Reading, model: PreTrainedModel) -> Saliency:
        split = self._splits["train"]
        return estimate_saliency(model, self._task, split, reading, self._settings, CPU, lambda done, total: None)

    def loss(self, architecture: Architecture | None = None) -> float:
        """The loss of the base model, or of what an architecture leaves of it."""
        model = copy.deepcopy(self.base) if architecture is None else cut(copy.deepcopy(self.base), architecture)
        return mean_loss(model, self._task, self._splits["validation"], self._pairs, self._settings.batch_size)


def table(bench: Bench, keep: float, seeds: int) -> Iterator[str]:
    """Prints losses after removal, line by line."""
    gate, weights = bench.saliency("gate", bench.base), bench.saliency("weights", bench.base)
    known = {"gate": gate, "gate, normalised by layer": gate.normalized(), "weights": weights}
    yield f"Base model: {bench.loss():.3f}\n"
    yield f"| kept: {keep:.0%} of | " + " | ".join([*known, f"gate, {ROUNDS} rounds", "random"]) + " |"
    yield "|---|" + "---|" * (len(known) + 2)
    full = Architecture.full(bench.shape)
    heads, neurons = (bench.shape.num_layers * size for size in (bench.shape.num_heads, bench.shape.ffn_size))
    for name, kept in (
        ("heads", (round(keep * heads), neurons)),
        ("neurons", (heads, round(keep * neurons))),
        ("both", (round(keep * heads), round(keep * neurons))),
    ):
        chosen = [keep_salient(values, full, *kept) for values in known.values()]
        estimate = partial(bench.saliency, "gate")
        again = prune_iteratively(bench.base, full, *kept, ROUNDS, estimate)
        drawn = [bench.loss(random_units(chosen[0], bench.shape, seed)) for seed in range(seeds)]
        spread = statistics.stdev(drawn) if len(drawn) > 1 else 0.0
        cells = [f"{bench.loss(architecture):.3f}" for architecture in (*chosen, again)]
        yield f"| {name} | " + " | ".join([*cells, f"{statistics.fmean(drawn):.3f} +- {spread:.3f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for line in table(Bench(StudyConfig.from_toml(arguments.study), arguments.pairs), arguments.keep, arguments.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
