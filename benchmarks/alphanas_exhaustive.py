"""Every layer mask of a small encoder, trained and evaluated: what a search can be held against.

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
from itertools import product
from pathlib import Path

import numpy as np
import torch

from nasopt.config import StudyConfig
from nasopt.measurement.device import device_name
from nasopt.measurement.latency import fixed_inputs, measure_latency
from nasopt.measurement.memory import memory_mb
from nasopt.methods.base import Context
from nasopt.models.architecture import Architecture
from nasopt.models.quantization import stored_tensors
from nasopt.models.surgery import cut
from nasopt.preparation import prepare
from nasopt.training.loop import train

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="train and evaluate every mask")
    table.add_argument("--study", type=Path, required=True)
    table.add_argument("--to", type=Path, required=True, help="writes TO.jsonl and TO.npz")
    table.add_argument("--artifacts", type=Path, default=None, help="base model and data; a temporary folder if unset")
    table.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
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


def evaluate(context: Context, mask: tuple[int, ...]) -> tuple[dict[str, object], np.ndarray]:
    """One mask as a trial evaluates it: a row of the table, and which validation examples it gets right."""
    started = time.perf_counter()
    full = Architecture.full(context.shape)
    model = context.base_model
    if not all(mask):
        layers = tuple(units if bit else None for units, bit in zip(full.layers, mask, strict=True))
        model = cut(copy.deepcopy(context.base_model), Architecture(layers))
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


def measure_depths(context: Context) -> list[dict[str, object]]:
    """Latency of the first k layers as a ratio to the base model, for every k."""
    latency = context.config.latency[0]
    inputs = fixed_inputs(
        latency.batch_size,
        latency.sequence_length,
        vocab_size=context.base_model.config.vocab_size,
        special_ids=context.task.tokenizer.all_special_ids,
        device=CPU,
    )
    rows: list[dict[str, object]] = []
    full = Architecture.full(context.shape).layers
    for depth in range(1, context.shape.num_layers + 1):
        layers = tuple(units if index < depth else None for index, units in enumerate(full))
        model = cut(copy.deepcopy(context.base_model), Architecture(layers))
        measured = measure_latency(
            model, context.base_model, inputs, device=CPU, threads=latency.threads or 1, time_budget_s=10.0
        )
        rows.append({"depth": depth, **measured.to_dict()})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, row: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        print(json.dumps(row), file=file)


if __name__ == "__main__":
    main()
