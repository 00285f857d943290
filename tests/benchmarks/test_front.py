"""The benchmark's figures, its file of results, and its tables; the runs themselves are tried with `--tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.front import equal_time, exhaustive, ladder, members
from benchmarks.front.figures import (
    Point,
    front,
    ideal_volume,
    packed,
    paired_difference,
    ratio_interval,
    time_to,
    unpacked,
    volume,
    volume_after,
)
from benchmarks.front.results import Results
from benchmarks.front.syne_tune_rivals import first_examples
from benchmarks.front.torch_pruning_rival import shares
from nasopt.tasks.batches import EncodedSplit

POINTS = [Point(10.0, 0.8, 0.5), Point(20.0, 0.7, 0.2), Point(30.0, 0.6, 0.6), Point(40.0, 0.9, 1.0)]


def results_with(tmp_path: Path, *rows: dict[str, Any]) -> Results:
    results = Results(tmp_path / "results.jsonl")
    for row in rows:
        results.add(**row)
    return results


def test_the_volume_is_the_area_of_a_staircase_up_to_the_reference() -> None:
    # By hand: 0.8 high from 0.5 to 1, and 0.7 high from 0.2 to 0.5. The third is dominated, the fourth no faster.
    assert volume(POINTS, 0.0) == pytest.approx(0.8 * 0.5 + 0.7 * 0.3)
    assert volume(POINTS, 0.55) == pytest.approx(0.25 * 0.5 + 0.15 * 0.3)
    assert volume([], 0.5) == 0
    assert front(POINTS) == [0, 1, 3]


def test_the_volume_grows_with_time() -> None:
    assert volume_after(POINTS, 15, 0.5) == pytest.approx(0.3 * 0.5)
    assert time_to(POINTS, 0.3 * 0.5, 0.5) == 10
    assert time_to(POINTS, 0.3 * 0.5 + 0.01, 0.5) == 20
    assert time_to(POINTS, 0.3, 0.5) is None


def test_the_ideal_point_has_the_best_of_everything() -> None:
    assert ideal_volume(POINTS, 0.5) == pytest.approx(0.4 * 0.8)


def test_predictions_survive_a_line_of_json() -> None:
    correct = np.random.default_rng(0).random(101) < 0.9
    assert (unpacked(packed(correct), 101) == correct).all()


def test_a_paired_difference_is_pooled_over_seeds() -> None:
    rng = np.random.default_rng(1)
    pairs = [(rng.random(2000) < 0.9, rng.random(2000) < 0.8) for _ in range(3)]
    found = paired_difference(pairs)
    each = np.mean([one.astype(float) - other for one, other in pairs], axis=0)
    assert found.mean == pytest.approx(each.mean())
    # The normal approximation of the mean of 2,000 independent examples.
    half = 1.96 * each.std() / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.002)
    same = paired_difference([(pairs[0][0], pairs[0][0])])
    assert tuple(same) == (0, 0, 0)


def test_a_ratio_of_sums_and_its_interval() -> None:
    assert tuple(ratio_interval([2.0, 4.0], [1.0, 2.0])) == (2, 2, 2)
    found = ratio_interval([1.0, 9.0], [1.0, 3.0])
    assert found.mean == 2.5
    assert (found.low, found.high) == (1, 3)


def test_a_line_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    results = results_with(tmp_path, {"piece": "a", "seed": 0}, {"piece": "a", "seed": 1})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"piece": "a", "se')
    assert results.has(piece="a", seed=1)
    assert not results.has(piece="a", seed=2)
    results.add(piece="a", seed=2)
    assert [row["seed"] for row in results.rows(piece="a")] == [0, 1, 2]


def test_the_shares_of_a_ladder_get_finer_without_repeating() -> None:
    found = [share for share, _ in zip(shares(), range(16), strict=False)]
    assert found[:8] == pytest.approx([0.1 ** (rung / 8) for rung in range(1, 9)])
    assert sorted(found) == pytest.approx([0.1 ** (rung / 16) for rung in range(16, 0, -1)])


def test_the_first_examples_are_the_same_examples() -> None:
    tokens = torch.arange(10)
    split = EncodedSplit({"input_ids": tokens}, {"input_ids": 0}, torch.tensor([0, 3, 5, 10]), torch.tensor([1, 0, 1]))
    found, whole = first_examples(split, 2), torch.arange(2)
    assert len(found) == 2
    assert found.total_tokens == 5
    assert torch.equal(found.batch(whole).inputs["input_ids"], split.batch(whole).inputs["input_ids"])
    assert torch.equal(found.labels, torch.tensor([1, 0]))


def model(quality: float, ratio: float, right: int, **more: Any) -> dict[str, Any]:
    """What a row says of a model that gets the first `right` of 10 examples right."""
    interval = {"ratio": ratio, "ratio_low": ratio, "ratio_high": ratio}
    correct = packed(np.arange(10) < right)
    return {"quality": quality, **interval, "examples": 10, "correct": correct, "architecture": "2 heads", **more}


def test_the_table_of_members_compares_with_base_and_controls(tmp_path: Path) -> None:
    params = {"latency_share": 0.5, "precision": "fp32", "criterion": "obs"}
    row = {
        "piece": "members",
        "seed": 0,
        "weights": "cut",
        "controls": True,
        "base": model(0.9, 1.0, 9),
        "members": [
            model(0.7, 0.5, 7, number=1, params={**params, "training": "none"}, budget=0.0),
            model(0.8, 0.5, 8, number=2, params={**params, "training": "distill"}, budget=100.0),
        ],
        "rivals": [
            model(0.6, 0.51, 6, of=2, kind="first-k", budget=120.0),
            model(0.5, 0.5, 5, of=2, kind="random-units", budget=99.0),
        ],
    }
    results = results_with(tmp_path, row, {**row, "seed": 1})
    line = next(line for line in members.table(results).splitlines() if line.startswith("| 0.50"))
    _, share, weights, ratio, untrained, healed, first, random, best, _ = (cell.strip() for cell in line.split("|"))
    assert (share, weights, ratio) == ("0.50", "cut", "0.500")
    means = [cell.split(" ")[0] for cell in (untrained, healed, first, random, best)]
    assert means == ["-20.0", "-10.0", "-30.0", "-40.0", "+20.0"]
    assert first.endswith("@ 0.510")
    assert "at most 1.0%" in members.budgets(results)


def test_the_table_of_a_ladder_has_a_line_for_each_rung(tmp_path: Path) -> None:
    params = {"criterion": "obs"}
    rungs = [model(0.6, 0.1, 6, params=params | {"latency_share": 0.1})]  # a bisection's order
    rungs += [model(0.8, 0.5, 8, params=params | {"latency_share": 0.5})]
    row = {"piece": "ladder", "seed": 0, "threads": 1, "seconds": 60.0, "prepared": 30.0, "phases": {"sensitivity": 9}}
    text = ladder.table(results_with(tmp_path, {**row, "base": model(0.9, 1.0, 9), "rungs": rungs}))
    assert "60 s after the base model, of which 30 s" in text
    assert [line.split("|")[4].split()[0] for line in text.splitlines()[-2:]] == ["-10.0", "-30.0"]


def test_equal_time_compares_with_the_best_of_the_others(tmp_path: Path) -> None:
    def row(name: str, *found: tuple[float, float]) -> dict[str, Any]:
        points = [Point(60.0 * (1 + index), *one)._asdict() for index, one in enumerate(found)]
        ends = [{"quality": quality, "ratio": ratio} for quality, ratio in found]
        rest = {"name": name, "minutes": 10, "chance": 0.5, "points": points, "front": ends}
        return {"piece": "equal-time", "seed": 0, **rest}

    results = results_with(
        tmp_path,
        row("fisher", (0.9, 0.5), (0.8, 0.2)),
        row("Optuna TPE", (0.85, 0.5)),
        row("Optuna NSGA-II", (0.7, 0.4)),
    )
    text = equal_time.table(results)
    # Ours: 0.4 * 0.5 + 0.3 * 0.3 = 0.29; TPE: 0.35 * 0.5 = 0.175; the ideal point (0.9, 0.2): 0.4 * 0.8 = 0.32.
    verdict = next(line for line in text.splitlines() if line.startswith("| fisher | 0 | 0.500"))
    cells = [cell.strip() for cell in verdict.split("|")][4:-1]
    assert cells == ["0.2900", "0.1750 (Optuna TPE)", "1.657x", f"{(0.29 - 0.175) / (0.32 - 0.175):.2f}"]
    mine = next(line for line in text.splitlines() if line.startswith("| fisher | 1"))
    assert [cell.strip() for cell in mine.split("|")][5:8] == ["0.2900", "0.2900", "0.2900"]


def test_the_clock_of_fisher_stands_while_masks_are_trained(tmp_path: Path) -> None:
    results = results_with(
        tmp_path,
        {"piece": "exhaustive", "seed": 0, "step": "prepare", "seconds": 30.0},
        {"piece": "exhaustive", "seed": 0, "trial": 0, "seconds": 10.0, "quality": 0.8, "ratio": 0.5},
        {"piece": "exhaustive", "seed": 0, "mask": [1, 0, 0, 0, 0, 0], "seconds": 500.0, "quality": 0.6},
        {"piece": "exhaustive", "seed": 0, "trial": 1, "seconds": 5.0, "quality": 0.7, "ratio": 0.2},
    )
    points, ended = exhaustive.fisher_points(results.rows(piece="exhaustive", seed=0))
    assert points == [Point(40.0, 0.8, 0.5), Point(45.0, 0.7, 0.2)]
    assert ended == 45
