"""Measures how well a look-up table predicts models that are not on its grid.

Measures a table on this machine (as `nasopt device profile` does), then random architectures: any depth, any heads and
any FFN width (in steps of 64) in each layer. Each is timed in alternation with the full base model, as trials are, and
compared with the table's sum: once in ms, once as a ratio to the base model (what a study compares).

`--isolated` measures the blocks alone too, over and over on one tensor, and compares what a table of those would say.

Example:
    python benchmarks/lut.py --model quickstart/all-MiniLM-L6-v2 --batch-size 8 --sequence-length 64 --models 30
"""

from __future__ import annotations

import argparse
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from nasopt.measurement.lookup.profiling import Grid, Model, Session, measure_table, random_model
from nasopt.measurement.lookup.table import LookupTable, Place
from nasopt.measurement.measured.latency import measure_latency
from nasopt.measurement.measured.runtimes import RuntimeSettings
from nasopt.models.families import encoder_shape, family_of
from nasopt.models.loading import load_config


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    config, device = load_config(arguments.model, None, False), torch.device(arguments.device)
    grid = Grid(
        (config.hidden_size,), (arguments.batch_size,), (arguments.sequence_length,), tuple(arguments.precision)
    )
    settings = {
        "device": device,
        "settings": RuntimeSettings("eager", arguments.threads),
        "seconds": arguments.seconds,
    }
    if arguments.table and arguments.table.is_file():
        table = LookupTable.read(arguments.table)
    else:
        started = time.monotonic()
        table = measure_table(config, grid, **settings, seed=arguments.seed)
        print(f"table: {len(table.entries)} entries in {time.monotonic() - started:.0f} s", flush=True)
        if arguments.table:
            arguments.table.write_text(table.model_dump_json(indent=1), encoding="utf-8")
    print(f"{table.identity}, torch {table.torch_version}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    print(f"interval from the table's own {len(table.checks)} checks: +-{table.relative_error:.1%}")
    tables = {"differences of models": table}
    if arguments.isolated:
        tables["blocks alone"] = isolated(table, config, settings)
    for precision in grid.precisions:
        check(tables, config, grid, precision, arguments.models, arguments.seed + 1, settings)


class Alone(nn.Module):
    """One layer, always on the same tensor."""

    def __init__(self, layer: nn.Module, place: Place) -> None:
        super().__init__()
        self.layer = layer
        dtype = next(layer.parameters()).dtype
        self.states = torch.randn(place.batch_size, place.sequence_length, place.hidden_size, dtype=dtype)

    def forward(self) -> None:
        self.layer(self.states)


def isolated(table: LookupTable, config, settings) -> LookupTable:  # type: ignore[no-untyped-def]
    """The table with its layers, attentions and FFNs timed alone, in alternation with the same reference."""
    device, threads, seconds = settings["device"], settings["settings"].threads, settings["seconds"]
    place = table.entries[0].place._replace(precision="fp32")
    session = Session(
        config, Model(place, ((config.num_attention_heads, config.intermediate_size),)), **settings, seed=0
    )
    times: dict[tuple[Place, tuple[int, int]], float] = {}
    for entry in table.entries:
        layer = {"attention": (entry.size, 0), "ffn": (0, entry.size), "layer": (0, 0)}.get(entry.block)
        if layer is None:
            continue
        model = session.build(Model(entry.place, (layer,)))
        alone = Alone(family_of(model).parts.encoder_layers(model)[0], entry.place).to(device)
        limits = {"max_pairs": 400, "relative_width": 0.01, "time_budget_s": seconds}
        measured = measure_latency(alone, session.reference, {}, device=device, threads=threads, **limits)
        times[entry.place, layer] = measured.ratio * table.reference_ms
    entries = []
    for entry in table.entries:
        layer = {"attention": (entry.size, 0), "ffn": (0, entry.size), "layer": (0, 0)}.get(entry.block)
        if layer is None:
            entries.append(entry)
            continue
        empty = 0.0 if entry.block == "layer" else times[entry.place, (0, 0)]
        latency = max(0.0, times[entry.place, layer] - empty)
        entries.append(entry.model_copy(update={"latency_ms": latency, "low_ms": latency, "high_ms": latency}))
    return LookupTable.model_validate(table.model_copy(update={"entries": tuple(entries)}).model_dump())


def check(tables, config, grid, precision, models, seed, settings):  # type: ignore[no-untyped-def]
    """Times `models` random models in one precision and prints how far each table was off."""
    shape, generator = encoder_shape(config), random.Random(seed)
    place = Place(config.hidden_size, grid.batch_sizes[0], grid.sequence_lengths[0], "fp32")
    base = Model(place, ((shape.num_heads, shape.ffn_size),) * shape.num_layers)
    session = Session(config, base, **settings, seed=seed)
    chosen = [random_model(shape, grid, precision, generator) for _ in range(models)]
    timings = [session.time(model) for model in chosen]
    measured = np.array([timing.ratio for timing in timings]) * session.reference_ms
    print(f"{precision}, {models} models; base model {session.reference_ms:.3f} ms", flush=True)
    for name, table in tables.items():
        estimates = [predict(table, model) for model in chosen]
        predicted, base_ms = np.array([item.latency_ms for item in estimates]), predict(table, base).latency_ms
        if name == next(iter(tables)):
            for model, mine, true, timing in zip(chosen, predicted, measured, timings, strict=True):
                layers = " ".join(f"{heads}/{width}" for heads, width in model.layers)
                spread, error = timing.error / timing.ratio, mine / true - 1
                print(f"  {true:8.3f} ms (+-{spread:.1%}), predicted {mine:8.3f}, {error:+6.1%}  {layers}")
        inside = [item.low <= true <= item.high for item, true in zip(estimates, measured, strict=True)]
        print(f"  {name}; base model predicted {base_ms:.3f} ms; inside the interval: {np.mean(inside):.0%}")
        report("in ms", predicted, measured)
        report("as a ratio to the base model", predicted / base_ms, measured / session.reference_ms)


def predict(table: LookupTable, model: Model):  # type: ignore[no-untyped-def]
    return table.predict(model.layers, **model.place._asdict())


def report(name: str, predicted: np.ndarray, measured: np.ndarray) -> None:
    errors = np.abs(predicted / measured - 1)
    tau = kendalltau(predicted, measured).statistic
    median, tail = np.median(errors), np.percentile(errors, 95)
    print(f"    {name}: median error {median:.1%}, 95th percentile {tail:.1%}, Kendall's tau {tau:.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart/all-MiniLM-L6-v2")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isolated", action="store_true", help="compare with blocks that are timed alone (BERT)")
    parser.add_argument("--table", type=Path, help="keep the table here; used again if it is there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
