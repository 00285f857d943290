"""What nasopt adds to a study's page in optuna-dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from invented_studies import configuration
from optuna_dashboard import save_note

from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.report import figures
from nasopt.report.study_page import FIGURES, MOST_MEMBERS, renew_page, study_note
from nasopt.storage.internals import study_system_attrs
from nasopt.storage.notes import read_note

KEPT = {f"{part}_{layer}": optuna.distributions.IntDistribution(0, 12) for part in ("heads", "ffn") for layer in (0, 1)}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study with its base model and one member."""
    study = optuna.create_study(
        study_name="invented", storage=f"sqlite:///{tmp_path}/a.db", directions=["maximize", "minimize", "minimize"]
    )
    study.set_metric_names(["quality", "latency_ms", "memory_mb"])
    StudyRecord(configuration=json.loads(configuration("invented").to_json())).write_to(study)
    add(study, (0.9, 10.0, 100.0), 12, is_base=True)
    add(study, (0.8, 5.0, 60.0), 6)
    return study


def add(study: optuna.Study, values: tuple[float, float, float], kept: int, *, is_base: bool | None = None) -> None:
    record = TrialRecord(is_base=is_base, architecture=f"2 layers, {2 * kept} heads")
    params = dict.fromkeys(KEPT, kept)
    attributes = record.to_attributes()
    study.add_trial(optuna.trial.create_trial(values=values, params=params, distributions=KEPT, user_attrs=attributes))


def stored_figures(study: optuna.Study) -> dict[str, dict[str, object]]:
    """The figures as optuna-dashboard reads them."""
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    return {name: json.loads(text) for name, text in get_plotly_graph_objects(study_system_attrs(study)).items()}


def note(study: optuna.Study) -> str:
    return str(read_note(study_system_attrs(study), None)["body"])


def test_figures_and_note_are_stored_once_for_the_trials_that_there_are(study: optuna.Study) -> None:
    assert renew_page(study)
    assert not renew_page(study)
    before = stored_figures(study)
    assert before.keys() == FIGURES.keys()
    assert "2 complete trials, 2 on the front" in note(study)
    assert "| trial 1" in note(study)
    add(study, (0.85, 4.0, 50.0), 5)
    assert renew_page(study)
    after = stored_figures(study)
    assert all(after[name] != before[name] for name in FIGURES)
    assert len(after["nasopt-architecture"]["data"][0]["y"]) == 2  # type: ignore[index]
    assert "| trial 2" in note(study)
    assert "| trial 1" not in note(study)  # dominated


def test_a_note_of_somebody_else_stays(study: optuna.Study) -> None:
    renew_page(study)
    save_note(study, "mine")
    add(study, (0.85, 4.0, 50.0), 5)
    assert renew_page(study)
    assert note(study) == "mine"


def test_a_study_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/a.db")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert not renew_page(study)
    assert study_system_attrs(study) == {}


def test_a_note_takes_nothing_of_the_database_for_markdown(study: optuna.Study) -> None:
    document = json.loads(configuration("invented").to_json())
    document["task"]["model"] = "a`|\n# b"
    StudyRecord(configuration=document).write_to(study)
    assert "model `a'/ # b`" in study_note(study)


def test_a_long_search_has_small_figures() -> None:
    """Each is sent to every open page every few seconds, and read with every trial that is asked for."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.set_metric_names(["quality", "latency_ms", "memory_mb"])
    add(study, (0.95, 10.0, 100.0), 12, is_base=True)
    generator = np.random.RandomState(0)
    for cost in generator.rand(2000):  # on the front or near it
        add(study, (0.9 * cost**0.5 - 0.01 * generator.rand(), 10 * cost, 100 * cost), int(12 * cost))
    drawn = {name: draw(study, None) for name, draw in FIGURES.items()}
    assert all(len(figure.to_json()) < 100_000 for figure in drawn.values())
    shown = drawn["nasopt-architecture"]
    assert len(shown.data[0].y) == MOST_MEMBERS + 1
    members = len(figures.architecture(study).data[0].y) - 1
    assert members > 2 * MOST_MEMBERS
    assert f"({MOST_MEMBERS} of {members} members)" in shown.layout.title.text
    # The line of steps goes through every value that the hypervolume had.
    from nasopt.report.figures.progress import progress_of

    volumes = progress_of(study).volumes
    line = drawn["nasopt-hypervolume"].data[0]
    assert len(line.y) < len(volumes)
    assert set(line.y) == set(volumes)
    assert line.x[-1] == len(volumes)
