"""How fast encoders are on a GPU, in runtimes and precisions, whole, narrow and shallow; and what training waits for.

    python -m benchmarks.gpu speed                 # minutes; every finished cell is kept
    python -m benchmarks.gpu training
    python -m benchmarks.gpu report > benchmarks/results/gpu.md

Every finished cell is a line of JSON in the file of results, with GPU, driver, date, versions and command; running
again does only what is missing. Run it from the root of the repository. Nothing is downloaded: how long a pass takes
does not depend on what the weights are, so they are random.

Latencies are medians of ratios to the whole model in fp32, eager and without TF32, in alternation with it, each with
its 95 % interval. `narrow` has half of the heads and of the neurons in each layer, `shallow` the first half of the
layers: about the same number of operations. `graph` replays a captured CUDA graph. Predictions are those of `nasopt
device predict` for the GPU's profile, for TensorRT: a runtime that is not measured here, so that only their order can
be compared.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

import scipy.stats
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.front.figures import markdown
from benchmarks.front.results import Results, Row
from nasopt.architecture.artifacts import TORCH_PRECISIONS
from nasopt.architecture.base import Precision
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.study import TrainingConfig
from nasopt.measurement.device import device_name, driver_version, is_device_of
from nasopt.measurement.estimates import any_case, predict_any
from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
from nasopt.measurement.measured.runtimes import RuntimeSettings, forget_compiled, numerics, prepare
from nasopt.measurement.predicted.device_profiles import profiles
from nasopt.measurement.predicted.transformer_cost import Workload
from nasopt.models.quantization import quantize
from nasopt.models.surgery import cut
from nasopt.tasks.batches import Batch, EncodedSplit
from nasopt.training.loop import train

RESULTS = Path("benchmarks/results/gpu.jsonl")
VOCABULARY, POSITIONS, HEAD_SIZE = 30522, 512, 64
SIZES = {"12 x 768": (12, 768, 12, 3072), "6 x 384": (6, 384, 6, 1536)}
"""Layers, hidden size, heads, neurons."""
CUTS = ("whole", "narrow", "shallow")
SHAPES = ("1x32", "8x128", "32x128")
PLAIN = "eager fp32"


class Cell(NamedTuple):
    """One latency: a model and its cut, in a runtime and a precision, at a shape (`batch x tokens`)."""

    model: str
    cut: str
    form: str
    shape: str


def cells(models: list[str], shapes: list[str]) -> Iterator[Cell]:
    """Every precision for the whole model, compiled in bf16; cut ones in fp32 and bf16."""
    for model, shape in itertools.product(models, shapes):
        for runtime, precision in itertools.product(("eager", "eager graph"), ("fp32", "tf32", *TORCH_PRECISIONS[1:])):
            yield Cell(model, "whole", f"{runtime} {precision}", shape)
        for runtime in ("compile", "compile graph"):
            yield Cell(model, "whole", f"{runtime} bf16", shape)
        for its, form in itertools.product(CUTS[1:], (PLAIN, "eager graph fp32", "eager bf16", "eager graph bf16")):
            yield Cell(model, its, form, shape)


@cache
def bert(model: str, its: str) -> BertForSequenceClassification:
    """A model with random weights, on the CPU, in fp32; not to be changed."""
    layers, hidden, heads, neurons = SIZES[model]
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=neurons,
        max_position_embeddings=POSITIONS,
    )
    torch.manual_seed(0)
    made = BertForSequenceClassification(config).eval()
    return made if its == "whole" else cut(made, architecture(model, its))


def architecture(model: str, its: str) -> Architecture:
    """All units, half of each layer's, or those of the first half of the layers."""
    layers, _, heads, neurons = SIZES[model]
    every = KeptUnits(tuple(range(heads)), tuple(range(neurons)))
    if its == "narrow":
        return Architecture((KeptUnits(every.heads[: heads // 2], every.neurons[: neurons // 2]),) * layers)
    kept = layers if its == "whole" else layers // 2
    return Architecture((every,) * kept + (None,) * (layers - kept))


def speed(cell: Cell, device: torch.device, seconds: float) -> Row:
    """The time of a cell as a ratio to the plain whole model's, in alternation."""
    forget_compiled()
    batch, length = map(int, cell.shape.split("x"))
    inputs = fixed_inputs(batch, length, vocab_size=VOCABULARY, special_ids=[0, 101, 102], device=device)
    *runtime, precision = cell.form.split()
    settings = RuntimeSettings("compile" if runtime[0] == "compile" else "eager", 1, cuda_graph="graph" in runtime)
    base = copy.deepcopy(bert(cell.model, "whole")).to(device)
    made = quantize(bert(cell.model, cell.cut), "fp32" if precision == "tf32" else cast(Precision, precision), device)
    started = time.perf_counter()
    with numerics(RuntimeSettings(settings.runtime, 1, tf32=precision == "tf32")):
        model: nn.Module = prepare(made, [inputs], settings, device=device)
    seconds_to_prepare = time.perf_counter() - started
    if precision == "tf32":
        model = _InTf32(model)
    found = measure_latency(model, base, inputs, device=device, threads=1, max_pairs=1000, time_budget_s=seconds)
    return {**found.to_dict(), "seconds_to_prepare": seconds_to_prepare}


class _InTf32(nn.Module):
    """A model whose products are in TF32, beside one whose products are not."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> object:
        with numerics(RuntimeSettings("eager", 1, tf32=True)):
            return self.model(**inputs)


def training(model: str, batch_size: int, length: int, device: torch.device) -> Row:
    """Tokens a second of the training loop, and the part of its time in which the GPU is at work."""
    count = 40 * batch_size
    ids = torch.randint(200, VOCABULARY, (count * length,), dtype=torch.int32)
    split = EncodedSplit(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        {"input_ids": 0, "attention_mask": 0},
        torch.arange(count + 1) * length,
        torch.randint(2, (count,)),
    )
    settings = TrainingConfig(epochs=1, batch_size=batch_size, learning_rate=5e-5)
    trained = bert(model, "whole")

    def run() -> float:
        model = copy.deepcopy(trained).to(device)
        found = train(model, split, _loss, settings, device=device, seed=0)
        return found.tokens / found.seconds

    run()  # the first one loads libraries and chooses kernels
    speeds = [run() for _ in range(3)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        seconds = split.total_tokens / run()
    busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return {"tokens_per_second": speeds, "busy": busy / seconds}


def _loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(**batch.inputs).logits.float(), batch.labels)


def predicted(rows: list[Row]) -> dict[Cell, float]:
    """Milliseconds of the cells' passes in TensorRT and fp16, of the first profile that is the GPU's."""
    name = next((item for item in profiles() if is_device_of(item, rows[0]["machine"])), None)
    if name is None:
        return {}
    wanted = list(dict.fromkeys(Cell(row["model"], row["cut"], "", row["shape"]) for row in rows))
    cases = []
    for cell in wanted:
        layers, hidden, heads, neurons = SIZES[cell.model]
        if cell.cut == "narrow":
            heads, neurons = heads // 2, neurons // 2
        batch, length = map(int, cell.shape.split("x"))
        kept = layers // 2 if cell.cut == "shallow" else layers
        workload = Workload.uniform(kept, hidden, heads, HEAD_SIZE, neurons, length=length, batch=batch)
        cases.append(any_case(name, None, "fp16", workload))
    return {cell: found.latency_ms for cell, found in zip(wanted, predict_any(cases), strict=True)}


def provenance(device: torch.device) -> Row:
    """Where, when and how a piece was done; of paths of this machine only the last part is of interest."""
    options = [Path(option).name if option.startswith("/") else option for option in sys.argv[1:]]
    return {
        "machine": device_name(device),
        "driver": driver_version(device),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *options]),
    }


def report(results: Results) -> str:
    """All that is there, as Markdown."""
    rows = results.rows()
    lines = [f"* {row['machine']}, driver {row['driver']}, {row['date'][:10]}" for row in rows]
    lines += [f"* {', '.join(f'{name} {one}' for name, one in row['versions'].items())}" for row in rows]
    parts = ["\n".join(dict.fromkeys([*lines, *(f"* `{row['command']}`" for row in rows)]))]
    measured = results.rows(piece="speed")
    for model in dict.fromkeys(row["model"] for row in measured):
        parts += [f"## {model}", _speeds([row for row in measured if row["model"] == model])]
    if measured:
        parts.append(f"## Predicted order\n\n{_orders(measured)}")
    if found := results.rows(piece="training"):
        parts.append(f"## Training\n\n{_trainings(found)}")
    return "\n\n".join(parts)


def _speeds(rows: list[Row]) -> str:
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    table = {(row["cut"], row["form"], row["shape"]): row for row in rows}
    lines = [
        [its, form, *(_ratio(table.get((its, form, shape))) for shape in shapes)]
        for its, form in dict.fromkeys((row["cut"], row["form"]) for row in rows)
    ]
    base = [f"{table['whole', PLAIN, shape]['base_median_ms']:.2f} ms" for shape in shapes]
    return markdown(["model", "form", *shapes], [["whole", f"{PLAIN}, which the others are ratios to", *base], *lines])


def _ratio(row: Row | None) -> str:
    return "" if row is None else f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"


def _orders(rows: list[Row]) -> str:
    """Kendall's tau between predictions for TensorRT in fp16 and what was measured, in three forms."""
    ours: dict[Cell, float] = predicted(rows)
    lines = []
    for form in (PLAIN, "eager bf16", "eager graph bf16"):
        found = [row for row in rows if row["form"] == form]
        pairs = [(row["median_ms"], ours.get(Cell(row["model"], row["cut"], "", row["shape"]))) for row in found]
        known = [(one, other) for one, other in pairs if other is not None]
        if len(known) > 1:
            lines.append([form, str(len(known)), f"{scipy.stats.kendalltau(*zip(*known, strict=True)).statistic:.2f}"])
    return markdown(["measured form", "passes", "Kendall's tau"], lines)


def _trainings(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        tokens = statistics.median(row["tokens_per_second"])
        lines.append([row["model"], f"{row['batch_size']} x {row['length']}", f"{tokens:,.0f}", f"{row['busy']:.0%}"])
    return markdown(["model", "batch", "tokens a second (median of 3)", "time in which the GPU is at work"], lines)


def main() -> None:
    """Runs what is missing, or prints the tables."""
    arguments = _parser().parse_args()
    results = Results(arguments.results)
    if arguments.command == "report":
        print(report(results))
        return
    device = torch.device(arguments.device)
    if arguments.command == "speed":
        for cell in cells(arguments.models, arguments.shapes):
            names = {"piece": "speed", **cell._asdict()}
            if not results.has(**names):
                results.add(**names, **speed(cell, device, arguments.seconds), **provenance(device))
                print(*cell, results.rows(**names)[0]["ratio"], flush=True)
        return
    for model, batch_size, length in itertools.product(arguments.models, (32, 128), (32, 128)):
        names = {"piece": "training", "model": model, "batch_size": batch_size, "length": length}
        if not results.has(**names):
            results.add(**names, **training(model, batch_size, length, device), **provenance(device))
            print(*names.values(), results.rows(**names)[0]["busy"], flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("speed", "training", "report"):
        command = commands.add_parser(name)
        command.add_argument("--results", type=Path, default=RESULTS)
        if name != "report":
            command.add_argument("--device", default="cuda:0")
            command.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
        if name == "speed":
            command.add_argument("--shapes", nargs="+", default=list(SHAPES))
            command.add_argument("--seconds", type=float, default=1.0, help="for each latency, at most")
    return parser


if __name__ == "__main__":
    main()
