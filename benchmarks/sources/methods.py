"""All methods on one task in the same wall-clock time: SST-2, MiniLM-L6, one thread, after the trained base model.

The base model of a seed is trained once and shared. A method's clock starts with its `nasopt study optimize`: starting
the process, tokenising, measuring the base model, sensitivities, supernets, posteriors and elastic bases are all on it.
What is not there in time does not count. Everything is in fp32, so that shapes are compared and not number formats.

On a shared machine equal wall-clock is not equal work: a run that had less than :data:`ENOUGH` of its threads' cores is
kept and listed, but neither compared nor drawn, and the command runs it again.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.front.equal_time import final_points
from benchmarks.front.figures import Point, best_within, markdown, spread, volume, volume_after
from benchmarks.front.race import Params, Race, ranges
from benchmarks.front.results import Results, Row
from benchmarks.sources.setting import Competitor, Setting

PIECE = "methods"
ENDLESS = 10_000
"""Trials, or generations, that nobody finishes: the time ends the search."""
GENETIC = {"population_size": 8, "generations": ENDLESS, "precisions": ("fp32",)}
PRUNED = {"heads": (0.1, 1.0), "ffn": (0.1, 1.0), "saliency_examples": 1024, "reconstruction_examples": 512}
SEARCHED = {
    "trials": ENDLESS,
    "hidden_size": 128,
    "cells": 3,
    "layer_pairs": ((0, 0), (1, 3), (2, 6)),
    "efficiency_weight": 0.005,
    "search_epochs": 8,
    "architecture_learning_rate": 1e-2,
    "search_batch_size": 64,
    "search_learning_rate": 1e-3,
}
"""As in `studies/adabert-sst2.toml`."""
METHODS: dict[str, Competitor] = {
    "fisher": Competitor("fisher", {"trials": ENDLESS}),
    "fisher elastic": Competitor("fisher", {"trials": ENDLESS, "weights": "elastic", "elastic_learning_rate": 2e-4}),
    "genetic": Competitor("genetic", GENETIC),
    "genetic, as published": Competitor(
        "genetic", {**GENETIC, "start": "base", "pruning": "magnitude", "selection": "fitness"}
    ),
    "alphanas": Competitor("alphanas", {"population_size": 6, "generations": ENDLESS}),
    "taylor": Competitor("taylor", {"trials": ENDLESS, **PRUNED}),
    "adabert": Competitor("adabert", SEARCHED, {"epochs": 3, "batch_size": 64, "learning_rate": 1e-3}),
    "bayesian": Competitor(
        "bayesian",
        {"trials": ENDLESS, "population_size": 4, "objectives": ("ce", "map"), "prior_strength": (1e-6, 1e-2)},
    ),
}
"""The five sources and fisher, with the options of their study files here; the rest are defaults."""
ENOUGH = 0.85
"""Least share of its cores, CPU time over wall-clock, of a run that is compared; whatever it has found."""
CAPS = (0.5, 0.35, 0.2, 0.1)
"""Latencies, as ratios to the base model's, that qualities are compared at."""


def random_search(race: Race) -> None:
    """Layers, heads and neurons drawn uniformly; distilled for one epoch as fisher heals."""
    draws = np.random.default_rng(race.ground.seed)
    bounds = ranges(race.ground)
    while race.left():
        race.fine_tuned({name: int(draws.integers(low, high + 1)) for name, (low, high) in bounds.items()})


def first_layers(race: Race) -> None:
    """The first k layers, most first, each distilled for one epoch; then there is nothing left to try."""
    for params in first_k(race.ground.context.shape.num_layers, ranges(race.ground)):
        if race.left():
            race.fine_tuned(params)


def first_k(layers: int, bounds: dict[str, tuple[int, int]]) -> Iterator[Params]:
    """Whole layers from the first on, from all but one of them down to one."""
    whole = {name: high for name, (_, high) in bounds.items()}
    for kept in range(layers - 1, 0, -1):
        yield {**whole, **{f"layer_{layer}": int(layer < kept) for layer in range(layers)}}


GENERIC: dict[str, Callable[[Race], None]] = {"random search": random_search, "first k layers": first_layers}
"""What a method has to beat. They run in this process: starting one is not on their clock, all else is."""


def run(setting: Setting, results: Results, seed: int, name: str, minutes: float) -> None:
    """One competitor with one seed, unless it is there."""
    if any(map(had_its_cores, results.rows(piece=PIECE, seed=seed, name=name, minutes=minutes))):
        return
    folder, budget_s = name.replace(" ", "-").replace(",", ""), 60 * minutes
    before = surroundings()
    found = (
        setting.race(METHODS[name], seed, folder, budget_s)
        if name in METHODS
        else _generic(setting, seed, folder, GENERIC[name], budget_s)
    )
    results.add(piece=PIECE, seed=seed, name=name, minutes=minutes, **before, load_after=load(), **found)


def had_its_cores(row: Row) -> bool:
    """Whether a run had enough of its threads' cores to be compared."""
    return bool(row["cpu_seconds"] >= ENOUGH * row["threads"] * row["seconds"])


def surroundings() -> dict[str, Any]:
    """When and where a run takes place, and how busy the machine was in the minute before."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": load(),
    }


def load() -> float:
    """Processes that ran or waited in the last minute."""
    return round(os.getloadavg()[0], 2)


def _generic(
    setting: Setting, seed: int, folder: str, search: Callable[[Race], None], budget_s: float
) -> dict[str, Any]:
    setting.base(seed)  # on nobody's clock
    started = time.perf_counter()
    ground = setting.generic(seed, folder)
    race = Race(ground, budget_s, started=started)
    base_quality = ground.quality(ground.context.base_model)
    ground.measure(ground.context.base_model)
    search(race)
    facts = {"chance": ground.chance, "base_quality": base_quality, "threads": setting.threads}
    return {**race.result(), **facts, "train": len(ground.context.splits["train"]), "options": {}}


def table(results: Results) -> str:
    """What each competitor reached, for each budget of time."""
    parts = []
    for minutes in dict.fromkeys(row["minutes"] for row in results.rows(piece=PIECE)):
        every = results.rows(piece=PIECE, minutes=minutes)
        rows = [row for row in every if had_its_cores(row)]
        parts += [
            f"{minutes:g} minutes after the base model.",
            _volumes(rows, minutes),
            _qualities(rows),
            f"All runs; those with less than {ENOUGH:g} of a core are not compared:",
            _runs(every),
        ]
    return "\n\n".join(parts)


def points_of(row: Row) -> list[Point]:
    """The models of a run in the order in which they came, with the latencies of the run."""
    return [Point(**point) for point in row["points"]]


def by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The runs of each competitor, in the order of :data:`METHODS` and :data:`GENERIC`."""
    names = [*METHODS, *GENERIC]
    return {name: mine for name in names if (mine := [row for row in rows if row["name"] == name])}


def _volumes(rows: Sequence[Row], minutes: float) -> str:
    """Models and hypervolumes: over time by the latencies of the run, at the end by those measured again."""
    times = [60 * minutes * part for part in (1 / 3, 2 / 3)]
    heading = ["method", "seeds", "models in time", "first after", *(f"after {one / 60:.3g} min" for one in times)]
    lines = []
    for name, mine in by_name(rows).items():
        firsts = [min(point.seconds for point in points_of(row)) for row in mine if row["points"]]
        curves = [[volume_after(points_of(row), one, row["chance"]) for row in mine] for one in times]
        ends = [volume(final_points(row), row["chance"]) for row in mine]
        cells = [spread([float(len(row["points"])) for row in mine], ".0f")]
        cells += [f"{spread(firsts, '.0f')} s" if firsts else "-"]
        cells += [spread(values, ".4f") for values in (*curves, ends)]
        lines.append([name, " ".join(str(row["seed"]) for row in mine), *cells])
    return markdown([*heading, "at the end"], lines)


def _qualities(rows: Sequence[Row]) -> str:
    """The best accuracy that each competitor has at no more than some latencies, as points from the base model."""
    heading = ["method", *(f"latency at most {cap:g} of the base's" for cap in CAPS)]
    lines = []
    for name, mine in by_name(rows).items():
        cells = []
        for cap in CAPS:
            best = [best_within(final_points(row), cap) for row in mine]
            points = [
                100 * (found - row["base_quality"]) for found, row in zip(best, mine, strict=True) if found is not None
            ]
            missing = f", none in {len(mine) - len(points)}" if len(points) < len(mine) else ""
            cells.append(f"{spread(points, '+.1f')}{missing}" if points else "-")
        lines.append([name, *cells])
    return markdown(heading, lines)


def _runs(rows: Sequence[Row]) -> str:
    """How much of its cores each run had, how busy the machine was, and what it reached all the same."""
    heading = ["method", "seed", "started", "wall-clock", "share of a core", "compared", "load before", "load after"]
    heading += ["base model", "models in time", "hypervolume"]
    lines = [
        [
            *(name, str(row["seed"]), row["date"], f"{row['seconds']:.0f} s"),
            *(f"{row['cpu_seconds'] / row['seconds'] / row['threads']:.2f}", "yes" if had_its_cores(row) else "no"),
            *(f"{row['load_before']:.1f}", f"{row['load_after']:.1f}"),
            "-" if row["base_quality"] is None else f"{row['base_quality']:.4f}",  # not even the base model in time
            *(str(len(row["points"])), f"{volume(final_points(row), row['chance']):.4f}"),
        ]
        for name, mine in by_name(rows).items()
        for row in mine
    ]
    return markdown(heading, lines)
