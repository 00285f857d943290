"""The sources' experiments: figures and tables of made-up runs, studies, and commands with `--tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_sentiment_csv

from benchmarks.front.figures import Point, best_within, packed
from benchmarks.front.results import Results
from benchmarks.sources import genetic, methods, setting, taylor
from benchmarks.sources.commands import main
from benchmarks.sources.picture import picture
from benchmarks.sources.setting import Setting
from nasopt.methods.registry import available, make_method


def run(name: str, *found: tuple[float, float, float], seed: int = 0, **more: Any) -> dict[str, Any]:
    """A run of six minutes that found (minute, quality, ratio), measured at the end as in the run."""
    points = [Point(60 * minute, quality, ratio)._asdict() for minute, quality, ratio in found]
    front = [{"quality": quality, "ratio": ratio, "in_run": ratio} for _, quality, ratio in found]
    surroundings = {"date": "2026-11-26 12:00", "machine": "a", "load_before": 1.0, "load_after": 2.0}
    facts = {"chance": 0.5, "base_quality": 0.9, "seconds": 361.0, "cpu_seconds": 350.0, "threads": 1, "train": 4000}
    key = {"piece": "methods", "seed": seed, "name": name, "minutes": 6.0}
    return {**key, **surroundings, **facts, "points": points, "front": front, **more}


def results_with(tmp_path: Path, *rows: dict[str, Any]) -> Results:
    results = Results(tmp_path / "results.jsonl")
    for row in rows:
        results.add(**row)
    return results


def cells_of(text: str, start: str) -> list[list[str]]:
    """The cells of the lines that begin so."""
    lines = [line for line in text.splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.split("|")][1:-1] for line in lines]


def test_a_model_that_is_too_slow_is_not_the_best_within_a_latency() -> None:
    points = [Point(1.0, 0.9, 0.6), Point(2.0, 0.8, 0.5), Point(3.0, 0.7, 0.2)]
    assert best_within(points, 0.5) == 0.8
    assert best_within(points, 0.1) is None


def test_the_table_has_volumes_over_time_qualities_at_latencies_and_the_load(tmp_path: Path) -> None:
    results = results_with(
        tmp_path,
        run("taylor", (1, 0.8, 0.5), (3, 0.7, 0.2)),
        run("fisher", (5, 0.9, 0.4)),
        run("fisher", (3, 0.9, 0.6), seed=1),
        run("adabert"),
    )
    text = methods.table(results)
    fisher, volumes_of_taylor = cells_of(text, "| fisher | 0 1")[0], cells_of(text, "| taylor | 0 | 2")[0]
    # By hand: 0.3 high from 0.5 to 1 after a minute, and 0.2 high from 0.2 to 0.5 after three.
    assert volumes_of_taylor[3:] == ["60 s", "0.1500", "0.2100", "0.2100"]
    assert fisher[1:4] == ["0 1", "1 (1 to 1)", "240 (180 to 300) s"]
    assert fisher[5] == "0.0800 (0.0000 to 0.1600)"
    assert cells_of(text, "| fisher | +0.0")[0][1] == "+0.0, none in 1"
    assert cells_of(text, "| taylor | -10.0")[0][1:] == ["-10.0", "-20.0", "-20.0", "-"]
    assert [line[2:] for line in cells_of(text, "| adabert | 0 | 0")] == [["0", "-", "0.0000", "0.0000", "0.0000"]]
    facts = cells_of(text, "| taylor | 0 | 2026")[0][3:]
    assert facts == ["361 s", "0.97", "yes", "1.0", "2.0", "0.9000", "2", "0.2100"]


def test_a_run_without_a_core_of_its_own_is_listed_and_not_compared(tmp_path: Path) -> None:
    starved = run("fisher", (5, 0.9, 0.1), cpu_seconds=120.0)
    text = methods.table(results_with(tmp_path, starved, run("taylor", (1, 0.8, 0.5)), run("fisher", (5, 0.8, 0.4))))
    assert [line[-1] for line in cells_of(text, "| fisher | 0 | 1")] == ["0.1800"]
    assert [line[5] for line in cells_of(text, "| fisher | 0 | 2026")] == ["no", "yes"]


def test_the_fittest_depend_on_the_exponents(tmp_path: Path) -> None:
    small, fast = genetic.Found(0.8, 0.9, 0.2), genetic.Found(0.8, 0.2, 0.9)
    assert genetic.fittest([small, fast], 1, (5, 1, 0)) == [fast]
    assert genetic.fittest([small, fast], 1, (5, 0, 1)) == [small]
    row = run("", (1, 0.8, 0.9), (2, 0.8, 0.2), piece="genetic-weights", exponents=[5, 0, 1], memory=[0.2, 0.9])
    text = genetic.table_of_weights(results_with(tmp_path, row))
    assert cells_of(text, "| 5, 0, 1")[0][3:7] == ["2", "0.8000", "0.900", "0.200"]
    assert cells_of(text, "| 5, 0, 1")[0][7:] == ["0.8000", "0.550", "0.550"]


def test_a_population_has_a_line_for_each_generation(tmp_path: Path) -> None:
    found = [(minute, 0.8, 0.5) for minute in range(5)]
    row = run("", *found, piece="genetic-population", population=2, memory=[0.5] * 5)
    lines = cells_of(genetic.table_of_populations(results_with(tmp_path, row)), "| 2 |")
    assert [line[3:6] for line in lines] == [["1", "2", "60 s"], ["2", "4", "180 s"], ["3", "5", "240 s"]]


def test_a_student_is_compared_with_its_own_random_units(tmp_path: Path) -> None:
    def student(*correct: int) -> dict[str, Any]:
        facts = {"quality": sum(correct) / 4, "examples": 4, "ratio": 0.5}
        return {**facts, "correct": packed(np.array(correct, dtype=bool))}

    key = {"piece": "taylor-units", "kept": "a quarter of the heads"}
    first = {"base": student(1, 1, 1, 1), "taylor": student(1, 1, 0, 1), "random-units-0": student(1, 0, 0, 1)}
    second = {"taylor": student(1, 1, 0, 1), "random-units-0": student(1, 1, 0, 1), "full-1": student(0, 0, 0, 0)}
    results = results_with(tmp_path, {**key, "seed": 0, "students": first}, {**key, "seed": 1, "students": second})
    (line,) = cells_of(taylor.table(results), "| a quarter of the heads")
    assert line[1:4] == ["0 1", "0.750 (0.750 to 0.750)", "0.625 (0.500 to 0.750)"]
    assert line[4].startswith("+12.5 (")


def test_the_first_k_layers_are_whole() -> None:
    proposals = list(
        methods.first_k(3, {name: (0, 1) for name in ("layer_0", "layer_1", "layer_2")} | {"heads_0": (1, 12)})
    )
    assert [[one[f"layer_{layer}"] for layer in range(3)] for one in proposals] == [[1, 1, 0], [1, 0, 0]]
    assert all(one["heads_0"] == 12 for one in proposals)


def test_the_picture_has_a_curve_and_a_front_for_each_method() -> None:
    figure = picture([run("taylor", (1, 0.8, 0.5)), run("taylor", (3, 0.8, 0.5), seed=1), run("first k layers")])
    curve = next(trace for trace in figure.data if trace.name == "taylor")
    # The mean of two seeds: nothing, then one of them, then both.
    assert [curve.y[curve.x.index(minute)] for minute in (0, 2, 4)] == pytest.approx([0, 0.075, 0.15])
    assert len([trace for trace in figure.data if trace.name == "taylor"]) == 2


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_every_competitor_is_a_valid_study(name: str, tmp_path: Path) -> None:
    competitor = methods.METHODS[name]
    config = Setting(tmp_path, tmp_path, 1, 4000, False).config(competitor, 3, "study", tmp_path)
    assert type(config).from_toml(written(tmp_path, config.to_toml())).to_toml() == config.to_toml()
    assert make_method(config).plan.budget >= methods.ENDLESS
    assert config.task.dataset.max_samples.train == 4000


def test_every_method_competes() -> None:
    assert {competitor.method for competitor in methods.METHODS.values()} == set(available())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few phrases, in which the base model is shared."""
    folder = tmp_path_factory.mktemp("place")
    write_sentiment_csv(folder / "data", {"train": 160, "validation": 60, "test": 60})
    for file in (folder / "data").iterdir():
        file.write_text(file.read_text().replace("text,label", "sentence,label", 1))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)  # on a busy machine an interrupted search takes its time to stop
@pytest.mark.parametrize(
    ("command", "key", "expected"),
    [
        (["methods", "--only", "fisher", "first k layers"], "name", ["fisher", "first k layers"]),
        (["genetic-weights"], "exponents", [[5, 1, 1], [5, 0, 1]]),
        (["genetic-population"], "population", [4, 8]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_experiments_run(
    place: Path,
    tiny_bert: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    key: str,
    expected: list[Any],
) -> None:
    """Two searches of each command on a few examples, from a tiny model in MiniLM's place."""
    monkeypatch.setattr(setting, "MODEL_DIR", str(tiny_bert))
    for name in ("EXPONENTS", "SIZES"):
        monkeypatch.setattr(genetic, name, getattr(genetic, name)[:2])
    file, piece = place / f"{command[0]}.jsonl", command[0]
    threads = str(torch.get_num_threads())  # a command sets them for the whole process
    options = ["--results", str(file), "--work", str(place / "work"), "--data", str(place / "data"), "--tiny"]
    options += ["--minutes", "0.5", "--threads", threads]
    main([*command, *options])
    rows = Results(file).rows()
    assert [(row["piece"], row[key]) for row in rows] == [(piece, value) for value in expected]
    points = [point for row in rows for point in row["points"]]
    # Half a minute is enough for a model where a search has a core; elsewhere its run is not compared either.
    assert points or not all(map(methods.had_its_cores, rows))
    assert all(point["ratio"] > 0 and 0 <= point["quality"] <= 1 for point in points)
    assert all(row["train"] == 128 and len(row.get("memory", row["points"])) == len(row["points"]) for row in rows)
    for module in (genetic, methods):
        monkeypatch.setattr(module, "had_its_cores", lambda row: True)  # on a busy machine, too, so that it is shown
    main([*command, *options])
    assert Results(file).rows() == rows, "what is there is not done again"
    capsys.readouterr()
    main(["report", "--results", str(file)])
    told = capsys.readouterr().out
    assert told.startswith(f"## {piece}\n")
    assert told.count("\n| ") > (len(rows) if points else 0)


def written(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(text)
    return file
