"""The ladder: what eight untrained sub-networks are worth, and how long they and all they need take."""

from __future__ import annotations

import time

from benchmarks.front.figures import markdown, paired_difference, unpacked
from benchmarks.front.ground import Setting, facts_of
from benchmarks.front.results import Results
from nasopt.records import queries

RUNGS = 8


def run(setting: Setting, results: Results, seed: int, lowest_share: float) -> None:
    """One study's ladder, unless it is there."""
    if results.has(piece="ladder", seed=seed, lowest_share=lowest_share):
        return
    study = setting.study_of(seed, "ladder", fresh=True, ladder=RUNGS, lowest_share=lowest_share)
    base = facts_of(study, study.complete()[0])
    before = dict(study.clock.seconds)
    started = time.perf_counter()
    study.prepare()
    prepared = time.perf_counter() - started
    study.run_some(RUNGS)
    whole = time.perf_counter() - started
    phases = {name: spent - before.get(name, 0.0) for name, spent in study.clock.seconds.items()}
    rungs = [facts_of(study, trial) for trial in study.complete() if not queries.is_base(trial)]
    results.add(
        piece="ladder",
        seed=seed,
        lowest_share=lowest_share,
        threads=setting.threads,
        seconds=whole,
        prepared=prepared,
        phases={name: round(spent, 2) for name, spent in phases.items() if spent > 0.05},
        base=base,
        rungs=rungs,
    )


def table(results: Results) -> str:
    """The ladders that were run, as Markdown."""
    parts = []
    for row in results.rows(piece="ladder"):
        base = row["base"]
        lines = []
        for rung in sorted(row["rungs"], key=lambda rung: -rung["params"]["latency_share"]):
            pair = (unpacked(rung["correct"], rung["examples"]), unpacked(base["correct"], base["examples"]))
            lines.append(
                [
                    f"{rung['params']['latency_share']:.3f}",
                    f"{rung['ratio']:.3f} ({rung['ratio_low']:.3f} to {rung['ratio_high']:.3f})",
                    f"{rung['quality']:.4f}",
                    paired_difference([pair]).in_points(),
                    f"{rung['params']['criterion']}: {rung['architecture']}",
                ]
            )
        phases = ", ".join(f"{name} {spent:.0f} s" for name, spent in row["phases"].items() if spent >= 0.5)
        heading = ["share asked for", "latency / base, measured", "accuracy", "points from base"]
        heading.append("chosen by, what stays")
        parts.append(
            f"Seed {row['seed']}, {row['threads']} thread(s): {row['seconds']:.0f} s after the base model, of which "
            f"{row['prepared']:.0f} s before the first rung ({phases}). Base model {base['quality']:.4f}.\n\n"
            + markdown(heading, lines)
        )
    return "\n\n".join(parts)
