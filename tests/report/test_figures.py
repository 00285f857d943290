"""The figures of a study: what they show, worked out by hand on small studies and read off stored ones."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from stored_studies import restore

from nasopt.architecture.outside import OutsideModel
from nasopt.errors import FigureError
from nasopt.records import names
from nasopt.records.outside import OutsideRecipe
from nasopt.report import figures
from nasopt.report.figures.groups import axes_of, groups_of, interval_of
from nasopt.report.figures.progress import progress_of
from nasopt.report.figures.shapes import Shape, shapes_of
from nasopt.report.figures.style import round_ticks

START = datetime(2026, 1, 1)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return restore(tmp_path_factory.mktemp("stored"))


def stored(database: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=database)


def make_study() -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.set_metric_names(["quality", "latency_ms", "memory_mb"])
    return study


def add(study: optuna.Study, values: tuple[float, ...] | None, start: float, end: float, **attributes: object) -> None:
    """A trial that ran from one minute to another."""
    trial = optuna.trial.create_trial(
        state=TrialState.COMPLETE if values else TrialState.FAIL, values=values, user_attrs=attributes
    )
    trial.datetime_start, trial.datetime_complete = (START + timedelta(minutes=at) for at in (start, end))
    study.add_trial(trial)


@pytest.fixture
def small() -> optuna.Study:
    """Base model, two members, one that is dominated, a provisional one, a control, a failed trial; a pause of an hour.

    The reference point is (0, 11 ms, 110 MB).
    """
    study = make_study()
    add(study, (0.9, 10.0, 100.0), 0, 1, **{names.IS_BASE: True})
    add(study, (0.8, 5.0, 60.0), 1, 3)
    add(study, (0.7, 6.0, 70.0), 2, 4)  # beside the one before; dominated by it
    add(study, None, 4, 5, **{names.FAILURE: "ValueError: why"})
    add(study, (0.85, 4.0, 50.0), 65, 66, **{names.PROVISIONAL: True})
    add(study, (0.6, 2.0, 40.0), 66, 70)
    add(study, (0.75, 5.0, 60.0), 70, 90, **{names.CONTROL: "first-1"})
    return study


def test_importing_and_drawing_need_no_torch(database: str) -> None:
    code = (
        "import sys, optuna; from nasopt.report import figures; "
        f"study = optuna.load_study(study_name='genetic', storage={database!r}); "
        "[figures.draw(study, kind) for kind in ('front', 'front-3d', 'hypervolume', 'architecture', 'genes')]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_complete_trial_is_in_one_group(small: optuna.Study) -> None:
    found = {group.name: [trial.number for trial in group.trials] for group in groups_of(small)}
    assert found == {
        "other trials": [2],
        "provisional": [4],
        "controls": [6],
        "Pareto front": [1, 5],
        "base model": [0],
    }


def test_the_front_shows_each_group_in_each_pair(small: optuna.Study) -> None:
    figure = figures.front(small)
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(marks) == 3 * 5
    (members,) = [trace for trace in marks if trace.name == "Pareto front" and trace.xaxis == "x2"]
    assert (list(members.x), list(members.y), list(members.customdata)) == ([60.0, 40.0], [0.8, 0.6], [1, 5])
    assert [trace.showlegend for trace in marks].count(True) == 5
    (control,) = [trace for trace in marks if trace.name == "controls" and trace.xaxis == "x"]
    assert "control first-1" in control.text[0]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    # Provisional trials and controls are on no line.
    assert [(list(line.x), list(line.y)) for line in lines[:1]] == [([2.0, 5.0, 10.0], [0.6, 0.8, 0.9])]
    assert figure.layout.xaxis.type == "log"  # 2 to 10 ms
    assert figure.layout.yaxis.title.text == "quality"


def test_a_model_from_outside_is_shown_by_its_name(small: optuna.Study) -> None:
    recipe = OutsideRecipe(OutsideModel("/models/<b>mini</b>")).to_json()
    add(small, (0.7, 3.0, 30.0), 90, 91, **{names.CONTROL: "<b>mini</b>", names.CONTROL_RECIPE: recipe})
    assert {group.name: len(group.trials) for group in groups_of(small)}["outside models"] == 1
    shown = "&lt;b&gt;mini&lt;/b&gt;"
    for figure in (figures.front(small), figures.front_3d(small)):
        traces = [trace for trace in figure.data if trace.name == "outside models"]
        for trace in traces:
            assert (trace.text, trace.mode, list(trace.customdata)) == ((shown,), "markers+text", [7])
        assert f"<b>trial 7</b>, {shown}" in traces[0].hovertext[0]
        assert traces[0].hovertemplate == "%{hovertext}<extra></extra>"


def test_a_front_of_two_objectives(small: optuna.Study) -> None:
    figure = figures.front(small, "memory_mb", "latency_ms")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("memory, MB", "latency, ms")
    with pytest.raises(FigureError, match="no objective 'speed'; the study has quality, latency_ms, memory_mb"):
        figures.front(small, "speed", "quality")
    with pytest.raises(FigureError, match="two objectives"):
        figures.front(small, "quality")


def test_intervals_are_those_of_the_stored_ratio(database: str) -> None:
    study = stored(database, "genetic")
    trial = study.trials[1]
    document = trial.user_attrs["latency"]["latency_ms"]
    base_ms = study.trials[0].values[1]
    low, high = interval_of(trial, "latency_ms") or (0, 0)
    # The value is ratio x the base model's latency at trial 0 in every study.
    assert document["value_ms"] == pytest.approx(document["ratio"] * base_ms, rel=0.2)
    assert low == pytest.approx(document["ratio_low"] * document["value_ms"] / document["ratio"])
    assert low <= trial.values[1] <= high
    assert interval_of(trial, "memory_mb") is None
    (members,) = [t for t in figures.front(study, "latency_ms", "quality").data if t.name == "Pareto front"]
    position = list(members.customdata).index(1)
    assert members.error_x.arrayminus[position] == pytest.approx(trial.values[1] - low)


def test_the_hypervolume_as_trials_end(small: optuna.Study) -> None:
    base = 0.9 * 1 * 10
    # The second box reaches from (5, 60) to (11, 110) up to 0.8; the base's part of it lies below 0.8.
    first = base + 0.8 * 6 * 50 - 0.8 * 1 * 10
    last = first + 0.6 * (9 * 70 - 6 * 50)
    found = progress_of(small)
    assert found.numbers == [0, 1, 2, 5]
    assert found.counts == [1, 2, 3, 5]
    assert found.volumes == pytest.approx([base, first, first, last])
    # Minutes 1 to 3 and 2 to 4 overlap, and 5 to 65 is a pause.
    assert found.seconds == pytest.approx([60, 180, 240, 600])
    everything = progress_of(small, provisional=True)
    assert everything.numbers == [0, 1, 2, 4, 5]
    assert everything.volumes[3] == pytest.approx(base + 0.85 * 7 * 60 - 0.85 * 1 * 10)
    drawn = figures.hypervolume(small, "time").data
    assert list(drawn[0].x) == pytest.approx([1, 3, 4, 10])
    assert [trace.name for trace in drawn] == ["final trials", "provisional ones, too"]
    assert list(figures.hypervolume(small).data[0].x) == [1, 2, 3, 5]
    with pytest.raises(FigureError, match="not over 'epochs'"):
        figures.hypervolume(small, "epochs")  # type: ignore[arg-type]


def test_the_hypervolume_grows_to_that_of_all_trials_together() -> None:
    from nasopt.numerics.pareto import hypervolume

    study, rng = make_study(), np.random.default_rng(0)
    add(study, (0.5, 1.0, 1.0), 0, 1, **{names.IS_BASE: True})
    points = rng.random((60, 3))
    for number, point in enumerate(points, 1):
        add(study, tuple(point), number, number + 1)
    found = progress_of(study)
    every = np.vstack([[0.5, 1.0, 1.0], points]) * [-1, 1, 1]
    expected = [hypervolume(every[: count + 1], [0, 1.1, 1.1]) for count in range(len(every))]
    assert found.volumes == pytest.approx(expected)


def test_shapes_come_from_attachments_and_else_from_parameters(database: str) -> None:
    study = stored(database, "genetic")
    front = [trial for trial in study.trials if trial.number in (0, 4)]
    attached = shapes_of(study, front)
    assert attached[0] == Shape((2, 2), (128, 128))
    assert attached[4].heads[1] == 0
    assert shapes_of(study, front, Path("nowhere")) == attached
    cells = stored(database, "adabert")
    member = cells.trials[1]
    expected = tuple(member.params[f"cell_{index}"] for index in range(2))
    assert shapes_of(cells, [member])[1].cells == expected


def test_the_heat_map_shows_what_members_keep(database: str) -> None:
    study = stored(database, "genetic")
    heads, neurons = figures.architecture(study).data
    assert list(heads.z[0]) == [1, 1]  # the base model keeps everything
    numbers = [int(label.split()[1]) for label in heads.y[1:]]
    assert numbers == sorted(numbers, key=lambda number: -study.trials[number].values[0])
    for number, row, shown in zip(numbers, heads.customdata[1:], neurons.text[1:], strict=True):
        params = study.trials[number].params
        assert list(row) == [params[f"heads_{index}"] * params[f"layer_{index}"] for index in range(2)]
        assert [int(text or 0) for text in shown] == [
            params[f"ffn_{index}"] * params[f"layer_{index}"] for index in range(2)
        ]
    (cells,) = figures.architecture(stored(database, "adabert")).data
    assert {text for row in cells.text for text in row} <= {"conv1", "conv3", "conv5", "maxpool", "avgpool", "skip"} | {
        "dilconv3"
    }


def test_genes_show_the_parameters_that_vary(database: str) -> None:
    study = stored(database, "genetic")
    figure = figures.genes(study)
    titles = [axis.title.text for axis in figure.select_xaxes() if axis.title.text]
    assert "layer 0" not in titles  # always 1
    assert {"heads 0", "ffn 1", "precision", "training"} <= set(titles)
    shown = {number for trace in figure.data for number in trace.customdata}
    assert shown == {t.number for t in study.trials if t.state == TrialState.COMPLETE and "control" not in t.user_attrs}


def test_many_trials_are_thinned_but_for_the_front() -> None:
    study = make_study()
    for number in range(500):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": number},
                distributions={"x": optuna.distributions.IntDistribution(0, 500)},
                values=[number / 500, 1.0, 1.0],
            )
        )
    shown = {trace.name: len(trace.x) for trace in figures.genes(study).data}
    assert shown == {"400 of 499 other trials": 400, "Pareto front": 1}


def test_sensitivities_of_a_guide_and_of_files(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    study = make_study()
    with pytest.raises(FigureError, match="stores no sensitivities"):
        figures.sensitivity(study)
    block = {"counts": [0, 1, 2], "losses": [8.0, 3.0, 0.0], "times": [0.0, 1.0, 2.0]}
    study.set_user_attr(names.GUIDANCE, {"heads_0": block, "ffn_0": {**block, "losses": [2.0, 1.0, 0.0]}})
    assert [list(trace.y) for trace in figures.sensitivity(study).data] == [[8.0], [3.0], [2.0], [1.0]]
    # Values (1 + 3 = 4) times the errors as shares, for heads and neurons of one layer.
    tensors = {}
    for index, errors in enumerate(([1.0, 0.25, 0.0], [1.0, 0.5, 0.0])):
        tensors |= {f"{index}.values": np.array([1.0, 3.0]), f"{index}.errors": np.array(errors)}
    (tmp_path / "sensitivity").mkdir()
    save_file(tensors, tmp_path / "sensitivity" / "fisher-0123.safetensors")
    shown = figures.sensitivity(make_study(), tmp_path).data
    assert [list(trace.y) for trace in shown] == [[4.0], [1.0], [4.0], [2.0]]


def test_curves_are_those_that_are_stored(database: str) -> None:
    supernet = stored(database, "adabert")
    losses = supernet.user_attrs["nasopt:supernet"]["losses"]
    drawn = {trace.name: list(trace.y) for trace in figures.curves(supernet).data}
    assert {name: drawn[name] for name in losses} == losses
    bayesian = stored(database, "bayesian")
    shown = {trace.name: list(trace.y) for trace in figures.curves(bayesian).data}
    assert shown == {
        f"trial {t.number}": t.user_attrs["validation_losses"]
        for t in bayesian.trials
        if "validation_losses" in t.user_attrs
    }
    with pytest.raises(FigureError, match="stores no curves"):
        figures.curves(stored(database, "genetic"))


def test_studies_without_trials_are_told() -> None:
    for kind in figures.KINDS:
        with pytest.raises(FigureError):
            figures.draw(make_study(), kind)
    with pytest.raises(FigureError, match="no figure 'pie'; there are front, front-3d, "):
        figures.draw(make_study(), "pie")


def test_every_figure_is_json_of_moderate_size(database: str) -> None:
    for kind in ("front", "front-3d", "hypervolume", "hypervolume-time", "architecture", "genes"):
        assert len(json.dumps(figures.draw(stored(database, "genetic"), kind).to_plotly_json(), default=list)) < 100_000


def test_a_renamed_study_keeps_its_axes(database: str) -> None:
    study = stored(database, "looked-up")
    expected = axes_of(study)
    study._storage.set_study_system_attr(study._study_id, "study:metric_names", None)
    renamed = stored(database, "looked-up")
    assert renamed.metric_names is None
    assert axes_of(renamed) == expected
    assert expected[0].label == "accuracy"


def test_ticks_are_round_numbers() -> None:
    assert round_ticks(6, 130) == pytest.approx([5, 10, 20, 50, 100, 200])
