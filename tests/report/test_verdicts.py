"""The control that a member is compared with, and the verdict. Values and predictions are made up, code is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from rich.console import Console
from verdict_studies import LABELS, NAMES, make_trial, opened_with, store_classes

from nasopt.methods.genetic.method import GeneticControls
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.report.front import print_front
from nasopt.report.tables import pareto_trials, study_record
from nasopt.report.verdicts import (
    Comparisons,
    best_control,
    control_records,
    is_comparable,
    pareto_records,
    summary_lines,
    with_ratios,
    with_verdict,
)
from nasopt.storage.validation_predictions import TFIDF, Predictions, PredictionStore
from nasopt.study.opening import OpenStudy

FAMILY = GeneticControls()


@pytest.mark.parametrize(
    ("change", "comparable"),
    [
        ({"values": [0.8, 20.0, 80.0]}, True),  # as deep, however slow
        ({"values": [0.8, 20.0, 80.0], "layers": 4}, False),
        ({"values": [0.8, 20.0, 80.0], "precision": "int8"}, False),
        ({"values": [0.8, 9.0, 40.0], "layers": 4}, True),  # no more expensive
        ({"values": [0.8, 10.15, 50.0], "layers": 4}, True),  # within the noise of a latency
        ({"values": [0.8, 10.25, 50.0], "layers": 4}, False),
        ({"values": [0.8, 9.0, 50.1], "layers": 4}, False),  # memory has no noise
        ({"values": [0.8, 9.0, 40.0], "layers": None}, True),
        ({"values": [0.8, 11.0, 40.0], "layers": None}, False),
    ],
)
def test_comparable_controls(change: dict[str, Any], comparable: bool) -> None:
    member = make_trial([0.9, 10.0, 50.0], 3)
    control = make_trial(**{"layers": 3, "control": "c", **change})
    assert is_comparable(member, control, FAMILY) == comparable


def test_every_latency_counts() -> None:
    member = make_trial([0.9, 10.0, 5.0, 50.0], 3)
    assert not is_comparable(member, make_trial([0.8, 9.0, 6.0, 40.0], 4, "c"), FAMILY)
    assert is_comparable(member, make_trial([0.8, 9.0, 5.0, 40.0], 4, "c"), FAMILY)


def test_the_best_of_them_is_the_one_of_the_highest_quality() -> None:
    member = make_trial([0.9, 10.0, 50.0], 3)
    controls = [make_trial([quality, 10.0, 50.0], 3, f"c{quality}") for quality in (0.7, 0.8, 0.6)]
    assert best_control(member, controls, FAMILY) is controls[1]
    assert best_control(member, [], FAMILY) is None


@pytest.fixture
def compared(tmp_path: Path) -> OpenStudy:
    """Members 1 to 4: better than, like, worse than and without a control of their own depth (5, 6, 7)."""
    trials = [
        make_trial([0.95, 60.0, 90.0], 6),
        make_trial([0.90, 50.0, 80.0], 5),
        make_trial([0.80, 40.0, 70.0], 4),
        make_trial([0.70, 30.0, 60.0], 3),
        make_trial([0.60, 1.0, 1.0], 2),
        make_trial([0.80, 50.0, 80.0], 5, "first-5"),
        make_trial([0.7975, 40.0, 70.0], 4, "first-4"),
        make_trial([0.79, 30.0, 60.0], 3, "first-3"),
    ]
    opened = opened_with(tmp_path, trials)
    for trial in opened.study.trials:
        store_classes(opened, trial.number, round(trial.values[0] * 400))
    return opened


def test_records_of_the_front(compared: OpenStudy) -> None:
    front = pareto_trials(compared)
    records = pareto_records(Comparisons(compared, front), front, NAMES)
    found = {record["number"]: record["comparison"] for record in records}
    assert found[0] is None
    assert found[4] is None
    assert {number: found[number]["verdict"] for number in (1, 2, 3)} == {
        1: "better",
        2: "no difference shown",
        3: "worse",
    }
    assert found[1] == {
        "control": "first-5",
        "trial": 5,
        "difference": pytest.approx(0.1),
        "low": pytest.approx(0.1 - 1.96 * 0.015, abs=0.003),  # sqrt(0.1 * 0.9 / 400)
        "high": pytest.approx(0.1 + 1.96 * 0.015, abs=0.003),
        "verdict": "better",
    }


def test_it_is_said_in_words(compared: OpenStudy) -> None:
    compared.study.set_user_attr(attributes.TFIDF, {"quality": 0.75, "metric": "accuracy", "seconds": 1.0})
    store_classes(compared, TFIDF, 300)
    front = pareto_trials(compared)
    comparisons = Comparisons(compared, front)
    records = pareto_records(comparisons, front, NAMES)
    assert summary_lines(comparisons, records, "made") == [
        "1 of 4 members beats the best control of their own cost or depth; 1 does not (no difference shown); "
        "1 does worse; 1 has no comparable control (run `nasopt study controls made`)",
        "TF-IDF and a linear model reach 0.7500; not shown to beat them: trials 3, 4",
    ]
    rows = [with_verdict(record, comparisons.is_member(trial)) for record, trial in zip(records, front, strict=True)]
    assert [row["verdict"] for row in rows] == [
        None,
        "beats it",
        "does not beat it: no difference shown",
        "is beaten by it",
        "no comparable control",
    ]
    assert rows[1]["best_control"] == "first-5 (trial 5)"
    assert rows[1]["difference"].startswith("+0.1000 (+0.07")


def test_trials_without_predictions_are_named(compared: OpenStudy) -> None:
    for number in (1, 6):
        (compared.folder / "predictions" / f"{number}.npz").unlink()
    front = pareto_trials(compared)
    comparisons = Comparisons(compared, front)
    records = pareto_records(comparisons, front, NAMES)
    found = {record["number"]: record["comparison"] for record in records}
    assert found[1] == {
        "control": "first-5",
        "trial": 5,
        "difference": pytest.approx(0.1),
        "low": None,
        "high": None,
        "verdict": "unknown",
    }
    assert found[3]["verdict"] == "worse"
    lines = summary_lines(comparisons, records, "made")
    assert "2 have no predictions to compare" in lines[0]
    assert lines[1] == "no predictions are stored of trials 1, 6"
    assert "unknown" in with_verdict(records[1], True)["verdict"]


def test_predictions_of_other_data_are_never_paired(compared: OpenStudy) -> None:
    store_classes(compared, 5, 320, split="other")
    front = pareto_trials(compared)
    record = Comparisons(compared, front).record(compared.study.trials[1])
    assert record is not None
    assert record["verdict"] == "unknown"


def test_without_controls_it_says_how_to_get_them(tmp_path: Path) -> None:
    opened = opened_with(tmp_path, [make_trial([0.9, 60.0, 90.0], 6), make_trial([0.8, 50.0, 80.0], 5)])
    front = pareto_trials(opened)
    comparisons = Comparisons(opened, front)
    records = pareto_records(comparisons, front, NAMES)
    assert summary_lines(comparisons, records, "made") == [
        "run `nasopt study controls made` to see whether the search found anything"
    ]
    alone = opened_with(tmp_path, [make_trial([0.9, 60.0, 90.0], 6)])
    assert summary_lines(Comparisons(alone, alone.study.trials), [], "made") == []


def test_regressions_are_compared_on_the_same_resamples(tmp_path: Path) -> None:
    trials = [
        make_trial([0.95, 60.0, 90.0], 6),
        make_trial([0.9, 50.0, 80.0], 5),
        make_trial([0.8, 50.0, 80.0], 5, "first-5"),
    ]
    opened = opened_with(tmp_path, trials, metric="spearmanr")
    rng = np.random.default_rng(0)
    labels = rng.normal(size=200).astype(np.float32)
    for number, noise in ((1, 0.2), (2, 1.0)):
        values = (labels + noise * rng.normal(size=200)).astype(np.float32)
        PredictionStore(tmp_path / "made").write(number, Predictions(values, labels, 0, "s"))
    record = Comparisons(opened, opened.study.trials[:2]).record(opened.study.trials[1])
    assert record is not None
    assert record["verdict"] == "better"
    assert 0 < record["low"] < record["difference"] < record["high"]


def test_controls_as_records(compared: OpenStudy) -> None:
    recipe = {"layers": [0], "finetune_epochs": 2, "distill_epochs": 1, "precision": "int8"}
    marks = {"control": "first-1", "control_depth": 1, "control_recipe": recipe}
    failed = optuna.trial.TrialState.FAIL
    compared.study.add_trial(optuna.trial.create_trial(state=failed, user_attrs={**marks, "failure": "it broke"}))
    compared.study.add_trial(optuna.trial.create_trial(state=failed, user_attrs={**marks, "interrupted": True}))
    compared.study.set_user_attr(attributes.TFIDF, {"quality": 0.75, "metric": "accuracy", "seconds": 1.0})
    records = control_records(compared)
    assert [record["control"] for record in records] == ["first-1", "first-3", "first-4", "first-5", "tfidf"]
    assert {key: records[0][key] for key in ("state", "failure", "depth", "finetune_epochs", "distill_epochs")} == {
        "state": "FAIL",
        "failure": "it broke",
        "depth": 1,
        "finetune_epochs": 2,
        "distill_epochs": 1,
    }
    assert records[-1]["values"] == {"quality": 0.75}
    assert {tuple(record) for record in records} == {tuple(records[0])}


def test_the_front_is_shown_beside_the_base_model(compared: OpenStudy) -> None:
    front = pareto_trials(compared)
    comparisons = Comparisons(compared, front)
    base = queries.base_of(compared.study)
    assert base is not None
    assert comparisons.against_base(base, NAMES) is None
    member = comparisons.members[0]
    found = comparisons.against_base(member, NAMES)
    assert found is not None
    assert found["faster"] == {"latency_ms": base.values[1] / member.values[1]}
    assert found["smaller"] == base.values[2] / member.values[2]
    assert found["points"] == pytest.approx(100 * (member.values[0] - base.values[0]))
    shown = with_ratios({"against_base": found})
    assert shown["smaller"] == f"{found['smaller']:.2f}x"
    assert with_ratios({"against_base": None})["points"] == "the base model"


def test_what_structure_alone_gives_is_shown_beside_a_copy_in_another_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [
        make_trial([0.9, 60.0, 90.0], 6, checkpoint="base"),
        make_trial([0.8, 30.0, 80.0], 3, checkpoint="half", parent=0),
        make_trial([0.8, 10.0, 20.0], 3, precision="int8", checkpoint="half", parent=1),
        make_trial([0.7, 9.0, 20.0], 3, precision="int8", checkpoint="another", parent=1),
        make_trial([0.9, 20.0, 25.0], 6, precision="int8", checkpoint="base", parent=0),
    ]
    opened = opened_with(tmp_path, trials)
    front = pareto_trials(opened)
    against = {trial.number: Comparisons(opened, front).against_base(trial, NAMES) for trial in front}
    alone = {number: found and found["faster_by_structure"] for number, found in against.items()}
    # Trial 3 has been trained further; the base model in int8, which dominates that in fp32, owes nothing to structure.
    assert alone == {2: {"latency_ms": 2.0}, 3: None, 4: None}
    print_front(opened, "table", Console(width=300))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert "structure alone" in heading
    assert any(line.startswith("2 ") and "6.00x" in line and "2.00x" in line for line in lines)


def test_f1_is_compared_for_the_class_that_it_is_of(tmp_path: Path) -> None:
    """The member finds all of the first class and half of the second, its control the reverse."""
    trials = [make_trial([0.9, 60.0, 90.0], 6), make_trial([0.8, 50.0, 80.0], 5), make_trial([0.7, 50.0, 80.0], 5, "c")]
    opened = opened_with(tmp_path, trials, metric="f1")
    labels, half = LABELS.astype(np.uint8), np.arange(400) % 4 < 2
    of_member, of_control = np.where(half, labels, 0), np.where(half, labels, 1)
    for positive, verdict in ((0, "better"), (1, "worse")):
        for number, values in ((1, of_member), (2, of_control)):
            predictions = Predictions(values.astype(np.uint8), labels, 2, "s", positive)
            PredictionStore(opened.folder).write(number, predictions)
        record = Comparisons(opened, opened.study.trials[:2]).record(opened.study.trials[1])
        assert record is not None
        assert record["verdict"] == verdict
        assert record["difference"] == pytest.approx((0.8 - 2 / 3) * (1 if verdict == "better" else -1))


def test_provisional_trials_are_on_the_whole_front_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = opened_with(
        tmp_path,
        [
            make_trial([0.9, 60.0, 90.0], 6),
            make_trial([0.8, 50.0, 80.0], 5),
            make_trial([0.85, 40.0, 70.0], 4, provisional=True),
            make_trial([0.7, 45.0, 75.0], 4, "first-4"),
        ],
    )
    for trial in opened.study.trials:
        store_classes(opened, trial.number, round(trial.values[0] * 400))
    assert [trial.number for trial in pareto_trials(opened)] == [0, 1]
    assert [trial.number for trial in pareto_trials(opened, provisional=True)] == [0, 2]
    told = study_record(opened)
    assert (told["pareto"], told["provisional"], told["best"]["latency_ms"]) == (2, 1, {"value": 50.0, "trial": 1})
    assert told["hypervolume"] == pytest.approx(0.9 * 6 * 9 + 0.8 * (16 * 19 - 6 * 9))

    print_front(opened, "table", Console(), provisional=True)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("2 ") and "provisional" in line for line in lines)
    comparisons = Comparisons(opened, pareto_trials(opened, provisional=True))
    against = comparisons.against_base(opened.study.trials[2], NAMES)
    assert against is not None
    assert against["low"] is not None  # its predictions are compared with the base model's
    assert comparisons.record(opened.study.trials[2]) is None
    assert not comparisons.is_member(opened.study.trials[2])
    print_front(opened, "table", Console())
    assert "provisional" not in capsys.readouterr().out
