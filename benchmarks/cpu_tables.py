"""The tables of `benchmarks/cpu.py`: one for each number of threads, and what optimum makes beside it."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.front.figures import Bits, markdown, paired_difference, unpacked
from benchmarks.front.results import Results, Row

REFERENCE = {"model": "base", "form": "eager fp32"}


def tables(results: Results) -> str:
    """All that is there, as Markdown."""
    parts = [_machines(results)]
    threads = sorted({row["threads"] for row in results.rows(piece="latency")})
    parts += [f"## {count} thread{'s' * (count > 1)}\n\n{_table(results, count)}" for count in threads]
    for heading, text in (
        ("Ours against optimum's file, in alternation", _against_optimum(results)),
        ("Exported folders in optimum", _loads(results)),
    ):
        if text:
            parts.append(f"## {heading}\n\n{text}")
    return "\n\n".join(parts)


def _machines(results: Results) -> str:
    rows = results.rows()
    lines = []
    for machine in _distinct(row["machine"] for row in rows):
        dates = sorted(row["date"][:10] for row in rows if row["machine"] == machine)
        loads = [row["load"] for row in rows if row["machine"] == machine]
        lines.append(
            f"* {machine}; {dates[0]} to {dates[-1]}; other processes ran, too: load {min(loads):.1f} to "
            f"{max(loads):.1f}"
        )
    versions = _distinct(", ".join(f"{name} {one}" for name, one in row["versions"].items()) for row in rows)
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    lines += [f"* {one}; seed {seeds}" for one in versions]
    return "\n".join([*lines, *(f"* `{command}`" for command in _distinct(row["command"] for row in rows))])


def _table(results: Results, threads: int) -> str:
    """Models and forms by shape: the ratio to the base model in torch and fp32, with its interval."""
    rows = results.rows(piece="latency", threads=threads)
    shapes = _distinct(row["shape"] for row in rows)
    heading = ["model", "form", "MB", "accuracy", "points from the base model", *(f"time at {item}" for item in shapes)]
    lines = []
    for model, form in dict.fromkeys((row["model"], row["form"]) for row in rows):
        cells = []
        for shape in shapes:
            found = [row for row in rows if (row["model"], row["form"], row["shape"]) == (model, form, shape)]
            cells.append(_ratio(found[-1]) if found else "")
        lines.append([model, form, *_quality(results, model, form), *cells])
    return markdown(heading, lines)


def _quality(results: Results, model: str, form: str) -> tuple[str, str, str]:
    """MB, accuracy, and points from the base model; a compiled model's are those of the model that is compiled."""
    rows = results.rows(piece="quality", model=model, form=form.replace("compile", "eager"))
    base = results.rows(piece="quality", **REFERENCE)
    if not rows:
        return "", "", ""
    points = ""
    if base and base[-1]["examples"] == rows[-1]["examples"]:
        points = paired_difference([(_bits(rows[-1]), _bits(base[-1]))]).in_points()
    return f"{rows[-1]['megabytes']:.1f}", f"{rows[-1]['quality']:.4f}", points


def _against_optimum(results: Results) -> str:
    rows = results.rows(piece="against-optimum")
    lines = [[row["form"], row["shape"], str(row["threads"]), _ratio(row)] for row in rows]
    return markdown(["form", "shape", "threads", "ours / optimum's"], lines) if rows else ""


def _loads(results: Results) -> str:
    rows = results.rows(piece="loads")
    lines = [[row["model"], row["form"], f"{row['difference']:.1e}", "yes" if row["loads"] else "no"] for row in rows]
    return markdown(["model", "form", "largest difference of logits", "loads"], lines) if rows else ""


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"


def _bits(row: Row) -> Bits:
    return unpacked(row["correct"], row["examples"])


def _distinct(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
