"""Measures where students with fewer layers start, and what they become: the published table, with spreads.

`starts` takes each layer away alone, and each set of `--removed` layers, and evaluates the validation loss before any
training: base model, plain slicing of it (`point` where it was trained here), and the means of the posteriors.
`students` trains the first set with every seed from random weights and from each posterior's mean, all by plain
cross-entropy. Both write one JSON line for each result, and leave out what is there already.

Example:
    python benchmarks/bayesian.py starts --study studies/bayesian-en-ru.toml --removed 1,2 --to starts.jsonl
    python benchmarks/bayesian.py students --study studies/bayesian-en-ru.toml --removed 1,2 --to students.jsonl
    python benchmarks/bayesian.py table --to students.jsonl
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.methods.bayesian.aligned import StudentTraining, align, mean_loss, randomise, train_student, zeroed_model
from nasopt.methods.bayesian.method import BayesianMethod
from nasopt.methods.bayesian.trajectory import posterior_path
from nasopt.methods.registry import make_method
from nasopt.models.families import family_of
from nasopt.models.posterior import STRUCTURES
from nasopt.models.surgery import cut
from nasopt.training.context import Context
from nasopt.trial.base_model import RECORD
from nasopt.trial.preparation import prepare

STARTS = ("uniform", "initial", "sliced", *STRUCTURES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("starts", "students", "table"))
    parser.add_argument("--study", type=Path)
    parser.add_argument("--artifacts", type=Path, default=Path("nasopt-artifacts"), help="where the base model is kept")
    parser.add_argument("--removed", nargs="+", default=["1"], help="sets of layers, such as 1,2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=["uniform", "initial", "sliced", "low_rank"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "table":
        print_table(read(arguments.to))
        return
    torch.set_num_threads(arguments.threads)
    context = opened(StudyConfig.from_toml(arguments.study), arguments.artifacts)
    sets = [tuple(int(layer) for layer in text.split(",")) for text in arguments.removed]
    done = {row["key"] for row in read(arguments.to)}
    work = start_jobs(context, sets) if arguments.command == "starts" else student_jobs(context, sets[0], arguments)
    for key, job in work:
        if key not in done:
            began = time.perf_counter()
            row = {"key": key, **job(), "seconds": round(time.perf_counter() - began, 1)}
            with arguments.to.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def opened(config: StudyConfig, artifacts: Path) -> Context:
    """The study's data, base model and posterior, made where they are not there."""
    method = make_method(config)
    assert isinstance(method, BayesianMethod)
    folder = artifacts / config.name
    folder.mkdir(parents=True, exist_ok=True)
    is_made = (folder / RECORD).is_file()  # half an hour's work: it stays, whatever it was made from
    context = prepare(
        config, folder, lambda phase, done, total: None, has_trials=is_made, make_observer=method.observer
    )
    method.prepare(context)
    return context


def start_jobs(context: Context, sets: Sequence[tuple[int, ...]]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Prints losses before training."""
    yield "base", lambda: {"removed": [], "start": "base", "loss": loss_of(context, copy.deepcopy(context.base_model))}
    alone = [(layer,) for layer in range(context.shape.num_layers)]
    for removed in dict.fromkeys([(), *alone, *sets]):
        for start in ("sliced", *STRUCTURES):
            yield f"start {removed} {start}", lambda removed=removed, start=start: started(context, removed, start)


def started(context: Context, removed: tuple[int, ...], start: str) -> dict[str, Any]:
    row: dict[str, Any] = {"removed": list(removed), "start": start}
    if start == "sliced":
        return {**row, "loss": loss_of(context, sliced(context, removed))}
    aligned = align(context.base_model, posterior_path(context.folder, context.base_key), start, removed)  # type: ignore[arg-type]
    row |= {"loss": loss_of(context, aligned.model), "distance": aligned.distances}
    if not family_of(context.base_model).is_pre_norm:
        row["loss_zeroed"] = loss_of(context, zeroed_model(context.base_model, aligned, removed))
    return row


def student_jobs(
    context: Context, removed: tuple[int, ...], arguments: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The teacher's quality, then students: all starts of one seed before the next seed."""
    validation = context.splits["validation"]
    yield (
        "teacher",
        lambda: {
            "start": "teacher",
            "quality": context.task.evaluate(context.base_model.to(context.device), validation, context.device).quality,
            "losses": [loss_of(context, context.base_model)],
        },
    )
    for seed in range(arguments.seeds):
        for start in arguments.starts:
            yield (
                f"student {removed} {start} {seed}",
                lambda start=start, seed=seed: trained(context, removed, start, seed),
            )


def trained(context: Context, removed: tuple[int, ...], start: str, seed: int) -> dict[str, Any]:
    if start in STRUCTURES:
        path = posterior_path(context.folder, context.base_key)
        model = align(context.base_model, path, start, removed).model  # type: ignore[arg-type]
    else:
        model = sliced(context, removed)
        if start != "sliced":
            model = randomise(model, start, seed)  # type: ignore[arg-type]
    splits = (context.splits["train"], context.splits["validation"])
    how = StudentTraining("ce", context.config.training)
    _, losses = train_student(
        model, None, how, context.task, splits, teacher=context.base_model, device=context.device, seed=seed
    )
    quality = context.task.evaluate(model, splits[1], context.device).quality
    return {"removed": list(removed), "start": start, "seed": seed, "quality": quality, "losses": losses}


def sliced(context: Context, removed: Sequence[int]) -> PreTrainedModel:
    mask = [int(layer not in removed) for layer in range(context.shape.num_layers)]
    return cut(copy.deepcopy(context.base_model), Architecture.masked(context.shape, mask))


def loss_of(context: Context, model: PreTrainedModel) -> float:
    return mean_loss(context.task, model.to(context.device), context.splits["validation"], context.device)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Mean and range over the seeds, by start."""
    print("| start | seeds | quality | loss before | after each epoch |\n|---|---|---|---|---|")
    for start in dict.fromkeys(row["start"] for row in rows):
        alike = [row for row in rows if row["start"] == start]
        curves = list(zip(*(row["losses"] for row in alike), strict=True))
        means = [f"{statistics.mean(losses):.3f}" for losses in curves]
        quality = spread([row["quality"] for row in alike])
        print(f"| {start} | {len(alike)} | {quality} | {means[0]} | {', '.join(means[1:])} |")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
