"""Every layer mask of a small encoder, trained and evaluated: a table that a search can be held against.

`table` trains all 2^L - 1 masks exactly as a trial of the study does (cut from the base model, one training, evaluation
on the validation split; the full mask is the base model itself) and writes them down. Latency is measured once for each
depth, so that noise does not decide which of two masks of one depth is on the front. A table that was interrupted is
completed by the same command.

Example:
    python benchmarks/alphanas_exhaustive.py table --study studies/alphanas-sst2.toml --to benchmarks/results/alphanas
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import TrialState

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.measurement.device import device_name
from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
from nasopt.measurement.measured.memory import memory_mb
from nasopt.models.quantization import stored_tensors
from nasopt.models.surgery import cut
from nasopt.numerics.pareto import hypervolume
from nasopt.records import names
from nasopt.samplers import AlphaNASSampler
from nasopt.training.context import Context
from nasopt.training.loop import train
from nasopt.trial.preparation import prepare

CPU = torch.device("cpu")
PENALTIES = (0.0, 1e-9, 3e-9, 1e-8, 3e-8)
"""Lambdas; the published one is 1e-9, of models of 110 M weights."""

Search = Callable[["Table", int, int], "list[Mask]"]
"""(table, budget, seed) -> masks that were evaluated."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="train and evaluate every mask")
    table.add_argument("--study", type=Path, required=True)
    table.add_argument("--to", type=Path, required=True, help="writes TO.jsonl and TO.npz")
    table.add_argument("--artifacts", type=Path, default=None, help="base model and data; a temporary folder if unset")
    table.add_argument("--threads", type=int, default=None)
    replayed = commands.add_parser("replay", help="let samplers search the table")
    replayed.add_argument("--budget", type=int, default=24)
    replayed.add_argument("--seeds", type=int, default=5)
    held_against = commands.add_parser("controls", help="what the table knows of first-k, last-k and random masks")
    scored = commands.add_parser("scores", help="search the table by the published score, Q = A - lambda N")
    scored.add_argument("--budget", type=int, default=24)
    scored.add_argument("--seeds", type=int, default=40)
    for command in (replayed, held_against, scored):
        command.add_argument("--table", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "table":
        run_table(arguments)
    elif arguments.command == "replay":
        replay(read_table(arguments.table), arguments.budget, arguments.seeds)
    elif arguments.command == "scores":
        scores(read_table(arguments.table), arguments.budget, arguments.seeds)
    else:
        controls(read_table(arguments.table), arguments.table.with_suffix(".npz"))


def run_table(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    config = StudyConfig.from_toml(arguments.study)
    with tempfile.TemporaryDirectory() as temporary:
        context = prepare(
            config, arguments.artifacts or Path(temporary), lambda phase, done, total: None, has_trials=False
        )
        make_table(context, arguments.to)


def make_table(context: Context, to: Path) -> None:
    """Appends the masks that are not in the table yet, then measures one latency for each depth."""
    path, predictions = to.with_suffix(".jsonl"), to.with_suffix(".npz")
    done = {tuple(row["mask"]) for row in read(path) if "mask" in row}
    bits = dict(np.load(predictions)) if predictions.is_file() else {}
    for mask in product((1, 0), repeat=context.shape.num_layers):
        if any(mask) and mask not in done:
            row, correct = evaluate(context, mask)
            bits["".join(map(str, mask))] = np.packbits(correct)
            np.savez_compressed(predictions, **bits)
            append(path, row)
    if not any("depth" in row for row in read(path)):
        for row in measure_depths(context):
            append(path, row)
        append(path, {"machine": device_name(CPU), "threads": torch.get_num_threads(), "torch": torch.__version__})


def evaluate(context: Context, mask: Mask) -> tuple[dict[str, Any], np.ndarray]:
    """One mask as a trial evaluates it: a row of the table, and which validation examples it gets right."""
    started = time.perf_counter()
    model = context.base_model
    if not all(mask):
        model = cut(copy.deepcopy(context.base_model), Architecture.masked(context.shape, mask))
        train(
            model,
            context.splits["train"],
            context.task.training_loss,
            context.config.training,
            device=context.device,
            seed=context.config.seed,
        )
    split = context.splits["validation"]
    evaluation = context.task.evaluate(model, split, context.device)
    row = {
        "mask": mask,
        "quality": evaluation.quality,
        "memory_mb": memory_mb(stored_tensors(model)),
        "parameters": model.num_parameters(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(row), flush=True)
    return row, evaluation.outputs.argmax(axis=1) == split.labels.numpy()


def measure_depths(context: Context) -> list[dict[str, Any]]:
    """Latency of the first k layers as a ratio to the base model, for every k."""
    latency = context.config.latency[0]
    inputs = fixed_inputs(
        latency.batch_size,
        latency.sequence_length,
        vocab_size=context.base_model.config.vocab_size,
        special_ids=context.task.tokenizer.all_special_ids,
        device=CPU,
    )
    rows: list[dict[str, Any]] = []
    for depth in range(1, context.shape.num_layers + 1):
        mask = [int(layer < depth) for layer in range(context.shape.num_layers)]
        model = cut(copy.deepcopy(context.base_model), Architecture.masked(context.shape, mask))
        measured = measure_latency(
            model, context.base_model, inputs, device=CPU, threads=latency.threads or 1, time_budget_s=10.0
        )
        rows.append({"depth": depth, **measured.to_dict()})
        print(json.dumps(rows[-1]), flush=True)
    return rows


Mask = tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """Values of every mask (quality, latency, memory), the latencies as ratios to the base model's, and its weights."""

    values: dict[Mask, tuple[float, float, float]]
    parameters: dict[Mask, int]

    @property
    def layers(self) -> int:
        return len(next(iter(self.values)))

    def hypervolume(self, masks: Iterable[Mask], chance: float) -> float:
        """The hypervolume of these masks; reference point: the full mask's costs x 1.1, and the quality `chance`."""
        _, latency, memory = self.values[(1,) * self.layers]
        points = [(-quality, *costs) for quality, *costs in map(self.values.__getitem__, masks)]
        return hypervolume(np.array(points), [-chance, 1.1 * latency, 1.1 * memory])


def replay(table: Table, budget: int, seeds: int) -> None:
    """Prints, for each way to search, the share of the exhaustive front's hypervolume: median and range over seeds."""
    searches: dict[str, Search] = {
        "AlphaNASSampler, pareto": partial(search, lambda seed: AlphaNASSampler(population_size=6, seed=seed)),
        "NSGA-II (Optuna)": partial(search, lambda seed: NSGAIISampler(population_size=6, seed=seed)),
        "random search (Optuna)": partial(search, lambda seed: RandomSampler(seed=seed)),
        "random masks, none twice, full one first": draw_distinct,
    }
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{budget} trials of {len(table.values)} masks, {seeds} seeds; share of the exhaustive hypervolume")
    for chance in (0.0, 0.5):
        whole = table.hypervolume(table.values, chance)
        print(f"reference quality {chance}:")
        for name, run in searches.items():
            shares = [table.hypervolume(run(table, budget, seed), chance) / whole for seed in range(seeds)]
            print(f"  {name:42} median {np.median(shares):.4f}, {min(shares):.4f} to {max(shares):.4f}")


def search(make_sampler: Callable[[int], BaseSampler], table: Table, budget: int, seed: int) -> list[Mask]:
    """The masks that a sampler evaluates; the empty one, which only other samplers propose, counts and fails."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler(seed))
    for _ in range(budget):
        trial = study.ask()
        mask = tuple(trial.suggest_int(f"layer_{layer}", 0, 1) for layer in range(table.layers))
        if any(mask):
            trial.set_user_attr(names.PARAMETERS, table.parameters[mask])
            study.tell(trial, table.values[mask])
        else:
            study.tell(trial, state=TrialState.FAIL)
    return [tuple(trial.params.values()) for trial in study.trials if trial.state == TrialState.COMPLETE]


def draw_distinct(table: Table, budget: int, seed: int) -> list[Mask]:
    full = (1,) * table.layers
    others = sorted(mask for mask in table.values if mask != full)
    picks = np.random.RandomState(seed).permutation(len(others))[: budget - 1]
    return [full, *(others[pick] for pick in picks)]


def scores(table: Table, budget: int, seeds: int) -> None:
    """Prints, for each lambda, the best mask of all, how often searches have it, and what it must beat."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{budget} trials of {len(table.values)} masks, {seeds} seeds")
    heading = ["lambda", "best mask", "A", "N / full", "found by score", "by pareto", "by random masks"]
    print(f"| {' | '.join(heading)} | A of first k | A of the median |\n|{'---|' * 9}")
    full = (1,) * table.layers
    for penalty in PENALTIES:
        value = {mask: table.values[mask][0] - penalty * table.parameters[mask] for mask in table.values}
        best = max(value, key=value.__getitem__)
        by_score = partial(AlphaNASSampler, population_size=6, selection="score", parameter_penalty=penalty)
        searches: list[Search] = [
            partial(search, lambda seed, make=by_score: make(seed=seed)),
            partial(search, lambda seed: AlphaNASSampler(population_size=6, seed=seed)),
            draw_distinct,
        ]
        found = [sum(best in run(table, budget, seed) for seed in range(seeds)) for run in searches]
        alike = sorted(mask for mask in table.values if sum(mask) == sum(best))
        cells = [f"{penalty:g}", "".join(map(str, best)), f"{table.values[best][0]:.4f}"]
        cells += [f"{table.parameters[best] / table.parameters[full]:.3f}", *(f"{count}/{seeds}" for count in found)]
        cells += [f"{table.values[alike[-1]][0]:.4f}", f"{np.median([table.values[mask][0] for mask in alike]):.4f}"]
        print(f"| {' | '.join(cells)} |")


def controls(table: Table, predictions: Path) -> None:
    """Prints, for each depth, the best mask and the fixed ones, with the 95 % interval of the paired difference."""
    bits = np.load(predictions)
    print("depth  masks  best    (mask)    first-k  last-k   median of all   best - first-k (95 % interval)")
    for depth in range(1, table.layers + 1):
        masks = [mask for mask in table.values if sum(mask) == depth]
        first, last = sorted(masks)[-1], sorted(masks)[0]
        best = max(masks, key=lambda mask: table.values[mask][0])
        right = {mask: np.unpackbits(bits["".join(map(str, mask))]).astype(int) for mask in (best, first)}
        differences = right[best] - right[first]
        low, high = interval(differences)
        qualities = [table.values[mask][0] for mask in masks]
        print(
            f"{depth:5}  {len(masks):5}  {max(qualities):.4f}  ({''.join(map(str, best))})  "
            f"{table.values[first][0]:.4f}   {table.values[last][0]:.4f}   {np.median(qualities):.4f}          "
            f"{differences.mean():+.4f} ({low:+.4f} to {high:+.4f})"
        )


def interval(differences: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean of paired differences in {-1, 0, 1}, by bootstrap."""
    counts = [(differences == value).sum() for value in (-1, 0, 1)]
    drawn = np.random.default_rng(0).multinomial(len(differences), np.array(counts) / len(differences), size=resamples)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(differences), [0.025, 0.975])
    return float(low), float(high)


def read_table(path: Path) -> Table:
    rows = read(path)
    ratios = {int(row["depth"]): float(row["ratio"]) for row in rows if "depth" in row}
    masks = [row for row in rows if "mask" in row]
    return Table(
        {
            tuple(row["mask"]): (float(row["quality"]), ratios[sum(row["mask"])], float(row["memory_mb"]))
            for row in masks
        },
        {tuple(row["mask"]): row["parameters"] for row in masks},
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        print(json.dumps(row), file=file)


if __name__ == "__main__":
    main()
