"""Time to the exhaustive front: the fisher method against training every layer mask, in alternation on one machine.

The hypervolume of the exhaustive front of all 63 masks of a 6-layer model is known from
`benchmarks/alphanas_exhaustive.py`. Here masks are trained once more, in turns with the trials of a fisher study, so
that both meet the same machine; the seconds of masks that are not trained again are the stored ones times the ratio of
those that are. The fisher study is charged with its sensitivities, its look-up table, and the teacher's outputs; the
base model is charged to neither.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alphanas_exhaustive import Mask, evaluate, measure_depths, read
from benchmarks.front.figures import Point, markdown, ratio_interval, time_to, volume
from benchmarks.front.ground import Setting, StudyRun, facts_of
from benchmarks.front.results import Results
from nasopt.records import queries

STORED = Path("benchmarks/results/alphanas.jsonl")
PIECE = "exhaustive"


def run(setting: Setting, results: Results, seed: int, masks: int, trials: int) -> None:
    """Trains so many masks, drawn at random, in turns with so many trials; what is there is not run again."""
    chosen = _draw(masks, seed)
    study = setting.study_of(seed, "exhaustive", fresh=not results.has(piece=PIECE, seed=seed, step="prepare"))
    _prepare(study, results, seed)
    ground = setting.ground(seed, "exhaustive")
    for turn in range(max(trials, len(chosen))):
        if turn < trials and not results.has(piece=PIECE, seed=seed, trial=turn):
            started = time.perf_counter()
            study.run_some(1)
            spent = time.perf_counter() - started
            latest = [trial for trial in study.complete() if not queries.is_base(trial)][-1]
            results.add(piece=PIECE, seed=seed, trial=turn, seconds=spent, **facts_of(study, latest))
        # Masks are spread evenly between the trials.
        for mask in chosen[turn * len(chosen) // trials : (turn + 1) * len(chosen) // trials]:
            if not results.has(piece=PIECE, seed=seed, mask=list(mask)):
                row, _ = evaluate(ground.context, mask)
                results.add(piece=PIECE, seed=seed, **{**row, "mask": list(mask)})
    if not results.has(piece=PIECE, seed=seed, depth=1):
        for row in measure_depths(ground.context):
            results.add(piece=PIECE, seed=seed, **row)
    if not results.has(piece=PIECE, seed=seed, chance=ground.chance):
        results.add(piece=PIECE, seed=seed, chance=ground.chance, threads=setting.threads, tiny=setting.tiny)


def _prepare(study: StudyRun, results: Results, seed: int) -> None:
    """Finds what the fisher method finds once for a study, and notes how long that took."""
    started = time.perf_counter()
    study.prepare()
    if not results.has(piece=PIECE, seed=seed, step="prepare"):
        results.add(piece=PIECE, seed=seed, step="prepare", seconds=time.perf_counter() - started)


def _stored() -> list[dict[str, Any]]:
    return [row for row in read(STORED) if "mask" in row and not all(row["mask"])]


def _draw(count: int, seed: int) -> list[Mask]:
    """Different masks at random, of those that were trained: all but the full one."""
    every = [tuple(row["mask"]) for row in _stored()]
    return [every[index] for index in np.random.default_rng(seed).permutation(len(every))[:count]]


def table(results: Results) -> str:
    """For each seed the seconds to the exhaustive hypervolume, as Markdown."""
    seeds = dict.fromkeys(row["seed"] for row in results.rows(piece=PIECE) if "chance" in row)
    parts = [_of_seed(results, seed) for seed in seeds]
    return "\n\n".join(parts)


def _of_seed(results: Results, seed: int) -> str:
    rows = results.rows(piece=PIECE, seed=seed)
    stored = {tuple(row["mask"]): row for row in _stored()}
    again = {tuple(row["mask"]): row for row in rows if "mask" in row}
    slower = ratio_interval([row["seconds"] for row in again.values()], [stored[mask]["seconds"] for mask in again])
    whole = sum(row["seconds"] for row in stored.values())
    points, lasted = fisher_points(rows)
    masks = mask_points(stored, again, rows)
    chance = next(row["chance"] for row in rows if "chance" in row)
    lines = []
    for name, reference in (("0", 0.0), (f"majority class ({chance:.3f})", chance)):
        target = volume(masks, reference)
        reached = time_to(points, target, reference)
        share = volume(points, reference) / target
        lines.append(
            [
                name,
                f"{target:.4f}",
                "not reached" if reached is None else f"{reached:.0f} s",
                "-" if reached is None else f"{whole * slower.mean / reached:.1f}x",
                f"{share:.3f} of it after {lasted:.0f} s",
            ]
        )
    differences = [abs(again[mask]["quality"] - stored[mask]["quality"]) for mask in again]
    heading = ["reference quality", "exhaustive hypervolume", "fisher is there after", "times sooner", "in the end"]
    return (
        f"Seed {seed}: {len(again)} of {len(stored)} masks were trained again, in turns with the fisher study; they "
        f"took {slower.mean:.2f} ({slower.low:.2f} to {slower.high:.2f}) of their stored seconds, so that all of them "
        f"take {whole * slower.mean:.0f} ({whole * slower.low:.0f} to {whole * slower.high:.0f}) s here. Their "
        f"qualities are the stored ones where they were not trained again (mean difference where they were: "
        f"{100 * np.mean(differences):.2f} points). Latencies were measured in this run.\n\n" + markdown(heading, lines)
    )


def fisher_points(rows: Sequence[dict[str, Any]]) -> tuple[list[Point], float]:
    """The trials of the fisher study by its own clock, which stands while masks are trained; and when it ended."""
    clock = sum(row["seconds"] for row in rows if row.get("step") == "prepare")
    points = []
    for row in sorted((row for row in rows if "trial" in row), key=lambda row: row["trial"]):
        clock += row["seconds"]
        points.append(Point(clock, row["quality"], row["ratio"]))
    return points, clock


def mask_points(
    stored: dict[Mask, dict[str, Any]], again: dict[Mask, dict[str, Any]], rows: Sequence[dict[str, Any]]
) -> list[Point]:
    """Every mask, with the quality of this run where it has one, and the latency of its depth."""
    ratios = {int(row["depth"]): float(row["ratio"]) for row in rows if "depth" in row}
    return [Point(0.0, (again.get(mask) or row)["quality"], ratios[sum(mask)]) for mask, row in stored.items()]
