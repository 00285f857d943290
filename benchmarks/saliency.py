"""What removing heads and neurons costs before any training: by saliency, in several readings, and at random.

The ranking loss of a sentence encoder on validation pairs after a share of its heads, of its FFN neurons, or of both
is removed. Random units have the same counts in each layer as the global ranking by gates.

Usage: python benchmarks/saliency.py STUDY.toml [--pairs 256] [--keep 0.5] [--seeds 3] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nasopt.config import StudyConfig
from nasopt.models.architecture import Architecture
from nasopt.models.saliency import Reading, Saliency, prune_iteratively, random_units
from nasopt.models.surgery import cut
from nasopt.preparation import open_task
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Examples, sorted_batches
from nasopt.training.loop import autocast
from nasopt.training.once import SampleSettings, estimate_saliency

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = StudyConfig.from_toml(arguments.study)
    task = open_task(config)
    with tempfile.TemporaryDirectory() as folder:
        splits = task.encode(Path(folder))
    base = task.load_model()
    batch_size, shape = config.training.batch_size, task.shape
    full = Architecture.full(shape)

    def estimate(reading: Reading, normalized: bool) -> Callable[[PreTrainedModel], Saliency]:
        settings = SampleSettings(arguments.pairs, batch_size, config.seed)

        def run(model: PreTrainedModel) -> Saliency:
            found = estimate_saliency(model, task, splits["train"], reading, settings, CPU, lambda done, total: None)
            return found.normalized() if normalized else found

        return run

    def loss_of(architecture: Architecture) -> float:
        model = cut(copy.deepcopy(base), architecture)
        return mean_loss(model, task, splits["validation"], arguments.pairs, batch_size)

    known = {
        name: estimate(reading, normalized)(base)
        for name, reading, normalized in (
            ("gate", "gate", False),
            ("gate, normalised by layer", "gate", True),
            ("weights", "weights", False),
        )
    }
    lines = [
        f"Base model: {mean_loss(base, task, splits['validation'], arguments.pairs, batch_size):.3f}",
        "",
        f"| kept: {arguments.keep:.0%} of | " + " | ".join([*known, f"gate, {ROUNDS} rounds", "random"]) + " |",
        "|---|" + "---|" * (len(known) + 2),
    ]
    all_heads, all_neurons = shape.num_layers * shape.num_heads, shape.num_layers * shape.ffn_size
    some_heads, some_neurons = round(arguments.keep * all_heads), round(arguments.keep * all_neurons)
    for name, heads, neurons in (
        ("heads", some_heads, all_neurons),
        ("neurons", all_heads, some_neurons),
        ("both", some_heads, some_neurons),
    ):
        chosen = [prune_iteratively(base, full, heads, neurons, 1, lambda model, v=v: v) for v in known.values()]  # type: ignore[misc]
        first = iter([known["gate"]])
        again = estimate("gate", False)
        chosen.append(
            prune_iteratively(base, full, heads, neurons, ROUNDS, lambda m, f=first, a=again: next(f, None) or a(m))  # type: ignore[misc]
        )
        drawn = [loss_of(random_units(chosen[0], shape, seed)) for seed in range(arguments.seeds)]
        spread = statistics.stdev(drawn) if len(drawn) > 1 else 0.0
        cells = [f"{loss_of(architecture):.3f}" for architecture in chosen]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{statistics.fmean(drawn):.3f} +- {spread:.3f}"]) + " |")
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
