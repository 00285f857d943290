"""The genetic source's own experiments: the exponents a, b, c of its fitness, and population against generations.

The source concludes that although speed and size correlate, each is optimised better directly than through the other.
`genetic-weights` leaves latency (b = 0) or memory (c = 0) out of the fitness: does the other one follow? Precisions are
searched here, as published, because they are what makes size and time differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.front.figures import Point, markdown, volume
from benchmarks.front.results import Results, Row
from benchmarks.sources.methods import ENDLESS, had_its_cores, load, surroundings
from benchmarks.sources.setting import Competitor, Setting

WEIGHTS, POPULATION = "genetic-weights", "genetic-population"
EXPONENTS = ((5.0, 1.0, 1.0), (5.0, 0.0, 1.0), (5.0, 1.0, 0.0))
"""The published (a, b, c), without latency, and without memory."""
SIZES = (4, 8, 16)
OPTIONS: dict[str, Any] = {"generations": ENDLESS, "selection": "fitness", "precisions": ("fp32", "bf16", "int8")}


class Found(NamedTuple):
    """A model of a genetic search; latency and memory are ratios to the base model's."""

    quality: float
    latency: float
    memory: float


def run_weights(setting: Setting, results: Results, seed: int, minutes: float) -> None:
    """One search for each (a, b, c), unless it is there."""
    for a, b, c in EXPONENTS:
        options = {**OPTIONS, "population_size": 8, "a": a, "b": b, "c": c}
        _run(setting, results, {"piece": WEIGHTS, "seed": seed, "minutes": minutes, "exponents": [a, b, c]}, options)


def run_population(setting: Setting, results: Results, seed: int, minutes: float) -> None:
    """One search for each size of the population, unless it is there."""
    for size in SIZES:
        options = {**OPTIONS, "population_size": size}
        _run(setting, results, {"piece": POPULATION, "seed": seed, "minutes": minutes, "population": size}, options)


def _run(setting: Setting, results: Results, key: dict[str, Any], options: dict[str, Any]) -> None:
    if any(map(had_its_cores, results.rows(**key))):
        return
    label = "-".join(f"{one:g}" for one in key.get("exponents", [key.get("population")]))
    before = surroundings()
    folder = f"{key['piece']}-{label}"
    found = setting.race(Competitor("genetic", options), key["seed"], folder, 60 * key["minutes"])
    results.add(**key, **before, load_after=load(), **found)


def models(row: Row) -> list[Found]:
    """The models of a search, in the order in which they came."""
    return [
        Found(point["quality"], point["ratio"], memory)
        for point, memory in zip(row["points"], row["memory"], strict=True)
    ]


def fittest(found: Sequence[Found], count: int, exponents: Sequence[float]) -> list[Found]:
    """The fittest by `a ln Q - b ln T - c ln M`, the best first."""
    a, b, c = exponents

    def fitness(one: Found) -> float:
        return a * math.log(max(one.quality, 1e-9)) - b * math.log(one.latency) - c * math.log(one.memory)

    return sorted(found, key=fitness, reverse=True)[:count]


def table_of_weights(results: Results) -> str:
    """The fittest model of each setting, and the mean of its last population."""
    heading = ["a, b, c", "seed", "minutes", "models", "fittest: accuracy", "latency / base", "memory / base"]
    heading += ["mean of the last 8: accuracy", "latency / base", "memory / base"]
    lines = []
    for row in filter(had_its_cores, results.rows(piece=WEIGHTS)):
        found = models(row)
        if not found:
            continue
        survivors = fittest(found, 8, row["exponents"])
        means = Found(*np.mean(survivors, axis=0))
        lines.append(
            [
                ", ".join(f"{one:g}" for one in row["exponents"]),
                *(str(row["seed"]), f"{row['minutes']:g}", str(len(found))),
                *(*_cells(survivors[0]), *_cells(means)),
            ]
        )
    return markdown(heading, lines)


def table_of_populations(results: Results) -> str:
    """What each size of the population had found after each of its generations, the last one cut short by the time."""
    heading = ["population", "seed", "minutes", "generation", "models", "after", "hypervolume", "fittest: accuracy"]
    heading += ["latency / base", "memory / base"]
    lines = []
    for row in filter(had_its_cores, results.rows(piece=POPULATION)):
        found, size = models(row), row["population"]
        points = [Point(**point) for point in row["points"]]
        for generation, count in enumerate(range(size, len(found) + size, size), 1):
            best = fittest(found[:count], 1, (5, 1, 1))[0]
            known = points[:count]
            lines.append(
                [
                    *(str(size), str(row["seed"]), f"{row['minutes']:g}", str(generation), str(len(known))),
                    *(f"{known[-1].seconds:.0f} s", f"{volume(known, row['chance']):.4f}", *_cells(best)),
                ]
            )
    return markdown(heading, lines)


def _cells(found: Found) -> list[str]:
    return [f"{found.quality:.4f}", f"{found.latency:.3f}", f"{found.memory:.3f}"]
