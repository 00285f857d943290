"""Models from outside beside a front. Values and predictions are made up, code is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import FrozenTrial
from rich.console import Console
from verdict_studies import NAMES, make_trial, opened_with, store_classes

from nasopt.architecture.outside import OutsideModel
from nasopt.records import names
from nasopt.records.outside import OutsideRecipe
from nasopt.report.front import print_front
from nasopt.report.outside import outside_lines, outside_records, print_outside, with_outside_verdict
from nasopt.report.tables import pareto_trials
from nasopt.report.verdicts import Comparisons, best_outside, dominates, pareto_records, summary_lines
from nasopt.study.opening import OpenStudy


def make_outside(name: str, *values: float, epochs: int = 0) -> FrozenTrial:
    recipe = OutsideRecipe(OutsideModel(f"/models/{name}"), epochs=epochs)
    marks = {names.CONTROL: recipe.label, names.CONTROL_RECIPE: recipe.to_json()}
    trial = make_trial(list(values), 0)
    trial.user_attrs |= {**marks, names.ARCHITECTURE: "4 layers"}
    return trial


def opened_study(folder: Path, *outside: FrozenTrial) -> OpenStudy:
    """The base model, members 1 to 3 and models from outside, 4 and on."""
    members = [
        make_trial([0.95, 60.0, 90.0], 6),
        make_trial([0.90, 50.0, 80.0], 5),
        make_trial([0.80, 40.0, 70.0], 4),
        make_trial([0.60, 30.0, 60.0], 3),
    ]
    opened = opened_with(folder, [*members, *outside])
    for trial in opened.study.trials:
        store_classes(opened, trial.number, round(trial.values[0] * 400))
    return opened


@pytest.mark.parametrize(
    ("one", "other", "is_better"),
    [
        ((0.9, 5.0, 6.0, 7.0), (0.9, 5.0, 6.0, 8.0), True),
        ((0.9, 5.0, 6.0, 7.0), (0.8, 5.0, 6.0, 7.0), True),
        ((0.9, 5.0, 6.0, 7.0), (0.9, 5.0, 6.0, 7.0), False),
        ((0.9, 5.0, 6.1, 7.0), (0.8, 6.0, 6.0, 8.0), False),
        ((0.7, 5.0, 6.0, 7.0), (0.8, 6.0, 7.0, 8.0), False),
    ],
)
def test_domination(one: tuple[float, ...], other: tuple[float, ...], is_better: bool) -> None:
    assert dominates(make_trial(list(one), 1), make_trial(list(other), 1)) == is_better


def test_a_rival_is_the_best_model_that_is_no_slower_however_large() -> None:
    member = make_trial([0.8, 40.0, 70.0], 4)
    models = [make_outside("fast", 0.7, 10.0, 500.0), make_outside("even", 0.75, 40.5, 500.0)]
    assert best_outside(member, models) is models[1]  # 2 % are noise
    assert best_outside(member, [*models, make_outside("slow", 0.99, 41.0, 1.0)]) is models[1]
    assert best_outside(member, []) is None


def test_verdicts_and_relations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_outside("mini", 0.85, 40.0, 60.0, epochs=3)
    slow = make_outside("maxi", 0.5, 55.0, 95.0)
    opened = opened_study(tmp_path, good, slow)
    front = pareto_trials(opened)
    comparisons = Comparisons(opened, front)
    records = pareto_records(comparisons, front, NAMES)
    found = {record["number"]: record["outside"] for record in records}
    assert found[0] is None
    assert found[3] is None  # nothing is as fast
    assert {number: (found[number]["model"], found[number]["verdict"]) for number in (1, 2)} == {
        1: ("mini, trained", "better"),
        2: ("mini, trained", "worse"),
    }
    assert found[2]["dominated"]
    assert not found[1]["dominated"]
    assert all(record["comparison"] is None for record in records)
    models = outside_records(opened, comparisons)
    assert [(item["control"], item["epochs"]) for item in models] == [("mini, trained", 3), ("maxi", 0)]
    assert [(item["dominates"], item["dominated_by"]) for item in models] == [([2], []), ([], [1, 2, 3])]
    assert models[0]["against_base"]["points"] == pytest.approx(-10)
    assert models[0]["against_base"]["low"] is not None
    assert outside_lines(comparisons, records, models) == [
        "1 of 2 members beats the best outside model as fast as they are; 1 does worse",
        "mini, trained (trial 4) dominates trial 2: at least as good, as fast and as small, and better in one of them",
        "maxi (trial 5) is dominated by trials 1, 2, 3",
    ]
    assert "study controls" in summary_lines(comparisons, records, "made")[0]  # these are none of the search's
    lines = print_front(opened, "table", Console(width=300))
    shown = capsys.readouterr().out
    assert "is beaten by it; is dominated by it" in shown
    assert "no outside model as fast" in shown
    assert any("dominates trial 2" in line for line in lines)
    assert print_outside(opened, opened.study.trials[4], "table", Console(width=300)) == [
        "mini, trained (trial 4) dominates trial 2: at least as good, as fast and as small, and better in one of them"
    ]
    assert "-10.0 (" in capsys.readouterr().out


def test_without_a_fast_model_and_without_predictions(tmp_path: Path) -> None:
    opened = opened_study(tmp_path, make_outside("slow", 0.99, 80.0, 20.0))
    front = pareto_trials(opened)
    comparisons = Comparisons(opened, front)
    records = pareto_records(comparisons, front, NAMES)
    assert outside_lines(comparisons, records, outside_records(opened, comparisons)) == [
        "no outside model is as fast as a member",
        "slow (trial 4) dominates no member, and none dominates it",
    ]
    fast = opened_with(tmp_path / "other", [*opened.study.trials[:4], make_outside("fast", 0.7, 1.0, 99.0)])
    comparisons = Comparisons(fast, pareto_trials(fast))
    record = pareto_records(comparisons, pareto_trials(fast), NAMES)[1]
    assert record["outside"]["verdict"] == "unknown"
    assert comparisons.without_predictions == [1, 2, 3, 4]
    assert "no predictions stored" in with_outside_verdict(record, True)["outside_verdict"]


def test_a_study_without_any_says_nothing_of_them(tmp_path: Path) -> None:
    opened = opened_study(tmp_path)
    front = pareto_trials(opened)
    comparisons = Comparisons(opened, front)
    records = pareto_records(comparisons, front, NAMES)
    assert outside_lines(comparisons, records, outside_records(opened, comparisons)) == []
    assert all(record["outside"] is None for record in records)
