"""Equal time: the hypervolume that each competitor reaches in the same minutes, from the same base model.

The clock starts when the base model is there and measured. Everything else is on it: sensitivities, look-up table,
elastic base, teacher outputs, gradients, training, evaluation, and measurement. A model that is not there in time does
not count. At the end the front's latencies are measured once more, in alternation with the base model, off the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.front import optuna_rivals, syne_tune_rivals, torch_pruning_rival
from benchmarks.front.figures import Point, ideal_volume, markdown, spread, volume, volume_after
from benchmarks.front.ground import Ground, Setting, ratio_of
from benchmarks.front.race import Race
from benchmarks.front.results import Results, Row
from nasopt.architecture.encoder import Architecture
from nasopt.records import queries

PIECE = "equal-time"
OURS: dict[str, dict[str, Any]] = {"fisher": {}, "fisher, elastic": {"weights": "elastic"}}
"""Options of the fisher method, by competitor."""
RIVALS: dict[str, Callable[[Race], None]] = {
    "Optuna NSGA-II": optuna_rivals.nsga2,
    "Optuna TPE": optuna_rivals.tpe,
    "Syne Tune MO-REA": syne_tune_rivals.regularized_evolution,
    "Syne Tune MOASHA": syne_tune_rivals.moasha,
    "Torch-Pruning Taylor": torch_pruning_rival.taylor,
}


def run(setting: Setting, results: Results, seed: int, name: str, minutes: float) -> None:
    """One competitor with one seed, unless it is there."""
    if results.has(piece=PIECE, seed=seed, name=name, minutes=minutes):
        return
    folder = name.lower().replace(" ", "-").replace(",", "")
    ground = setting.ground(seed, folder)
    if name in OURS:
        found = _study(setting, ground, folder, OURS[name], 60 * minutes)
    else:
        race = Race(ground, 60 * minutes)
        RIVALS[name](race)
        found = race.result()
    results.add(
        piece=PIECE, seed=seed, name=name, minutes=minutes, threads=setting.threads, chance=ground.chance, **found
    )


def _study(setting: Setting, ground: Ground, folder: str, options: dict[str, Any], budget_s: float) -> dict[str, Any]:
    """The fisher method as a real study: trials begin until the time is over."""
    study = setting.study_of(ground.seed, folder, fresh=True, **options)
    race = Race(ground, budget_s)
    began = time.time()
    context = study.prepare()
    study.run(race.left)
    for trial in study.complete():
        if queries.is_base(trial):
            continue
        architecture = study.objective.method.architecture(trial.params, context)
        assert isinstance(architecture, Architecture)
        assert trial.datetime_complete is not None
        race.found(
            trial.values[0],
            ratio_of(trial)["ratio"],
            lambda architecture=architecture: ground.cut(architecture),
            trial.datetime_complete.timestamp() - began,
        )
    phases = {name: round(spent, 1) for name, spent in study.clock.seconds.items() if spent >= 0.05}
    return {**race.result(), "phases": phases}


def table(results: Results) -> str:
    """Hypervolumes and their ratios, as Markdown."""
    parts = []
    for minutes in dict.fromkeys(row["minutes"] for row in results.rows(piece=PIECE)):
        rows = results.rows(piece=PIECE, minutes=minutes)
        parts.append(f"{minutes:g} minutes after the base model.\n\n{_volumes(rows, minutes)}\n\n{_verdicts(rows)}")
    return "\n\n".join(parts)


def final_points(row: Row) -> list[Point]:
    """The front of a competitor with the latencies that were measured at the end."""
    return [Point(0.0, item["quality"], item["ratio"]) for item in row["front"]]


def _volumes(rows: Sequence[Row], minutes: float) -> str:
    """Each competitor's hypervolumes: over time by the latencies of the run, at the end by those measured again."""
    times = [60 * minutes * part for part in (0.2, 0.5)]
    heading = ["competitor", "seeds", "models in time", "on the front", *(f"after {one / 60:g} min" for one in times)]
    heading += ["at the end", "at the end, reference quality 0"]
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        curves = [
            [volume_after([Point(**point) for point in row["points"]], one, row["chance"]) for row in mine]
            for one in times
        ]
        ends = [
            [volume(final_points(row), row["chance"]) for row in mine],
            [volume(final_points(row), 0.0) for row in mine],
        ]
        counts = [[float(len(row[key])) for row in mine] for key in ("points", "front")]
        lines.append(
            [name, str(len(mine)), *(spread(item, ".0f") for item in counts)]
            + [spread(item, ".4f") for item in (*curves, *ends)]
        )
    return markdown(heading, lines)


def _verdicts(rows: Sequence[Row]) -> str:
    """Ours against the best of the others, seed by seed, for both references."""
    heading = [
        "ours",
        "seed",
        "reference quality",
        "hypervolume",
        "best of the others",
        "ratio",
        "share of what was left",
    ]
    lines = []
    for name in OURS:
        for row in (row for row in rows if row["name"] == name):
            others = [other for other in rows if other["seed"] == row["seed"] and other["name"] in RIVALS]
            if not others:
                continue
            lines += [
                [name, str(row["seed"]), f"{chance:.3f}", *_verdict(row, others, chance)]
                for chance in (row["chance"], 0.0)
            ]
    return (
        markdown(heading, lines) + "\n\nWhat was left is the way from the best of the others to the ideal point: the "
        "best quality and the least latency that anyone of this seed found, in one."
    )


def _verdict(row: Row, others: Sequence[Row], chance: float) -> list[str]:
    mine = volume(final_points(row), chance)
    best, rival = max((volume(final_points(other), chance), str(other["name"])) for other in others)
    ideal = ideal_volume([point for each in (row, *others) for point in final_points(each)], chance)
    left = (mine - best) / (ideal - best) if ideal > best else 0.0
    return [f"{mine:.4f}", f"{best:.4f} ({rival})", f"{mine / best:.3f}x" if best else "-", f"{left:.2f}"]
