"""Controls from the command line on a tiny model: run once, tried again, counted by nobody, compared with the front."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import assert_refused, read, run, succeed
from optuna.trial import TrialState
from study_text import study_text

from nasopt.errors import TrialNotFoundError
from nasopt.execution.controls import members_of, missing_controls, run_controls
from nasopt.execution.search import run_base, run_trials
from nasopt.host.identity import host
from nasopt.models.building import build
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.report.tables import pareto_trials
from nasopt.report.verdicts import control_records
from nasopt.samplers.genetic import GeneticSampler
from nasopt.samplers.history import parent_of, proposed_params
from nasopt.storage.rdb import parse_url, resolve_url
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.study.opening import OpenStudy, open_study
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration
WriteStudy = Callable[..., Path]
GONE = {"host": host(), "pid": 2**22 + 1, "started": 1.0}
FULL = {f"{part}_{layer}": full for layer in range(3) for part, full in (("layer", 1), ("heads", 4), ("ffn", 128))}
BASE = {**FULL, "precision": "fp32", "training": "none"}
WITHOUT_1 = {"layer_1": 0, "heads_1": 0, "ffn_1": 0}
MEMBERS = [
    {**BASE, **WITHOUT_1, "training": "finetune"},  # 1: whole layers, layers 0 and 2
    {**BASE, **WITHOUT_1, "heads_0": 2, "precision": "bf16", "training": "distill"},  # 2: pruned
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Path:
    """Folder of a study that has found two members, both children of the base model."""
    folder = tmp_path_factory.mktemp("searched")
    options = 'population_size = 4\ngenerations = 2\nstart = "base"'
    (folder / "tiny.toml").write_text(study_text(tiny_bert, sentiment, options))
    url = f"sqlite:///{folder}/nasopt.db"
    assert run("study", "create", folder / "tiny.toml", "--storage", url).code == 0
    opened = open_study(parse_url(url), "tiny")
    objective = Objective(opened.config, opened.artifacts)
    run_base(opened, objective)
    for params in MEMBERS:
        opened.study.enqueue_trial(params, user_attrs={"parent": 0})
    left = iter([True] * len(MEMBERS))
    run_trials(opened, objective, lambda: next(left, False), lambda trial: None)
    return folder


@pytest.fixture
def opened(searched: Path, study_folder: Path) -> OpenStudy:
    """A copy of that study in the current folder."""
    shutil.copytree(searched, study_folder, dirs_exist_ok=True)
    reopened().study.set_user_attr(attributes.ARTIFACTS, str(study_folder / "nasopt.db.artifacts"))
    return reopened()


def reopened() -> OpenStudy:
    return open_study(parse_url(resolve_url(None)), "tiny")


def controls_of(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials() if attributes.CONTROL in trial.user_attrs]


def test_the_whole_way(opened: OpenStudy) -> None:
    before = len(queries.finished_trials(opened.study))
    first = run("study", "controls", "tiny", "--random-masks", 1)
    assert first.code == 0, first.err
    controls = controls_of(opened.study)
    assert {trial.state for trial in controls} == {TrialState.COMPLETE}
    assert all(trial.params == {} for trial in controls)
    front = {member.number for member in members_of(opened)}
    assert {1, 2} & front
    labels = {trial.user_attrs["control"] for trial in controls}
    assert {"first-2", "last-2", "even-2", "full-1"} <= labels
    assert len({queries.recipe_key(trial.user_attrs["control_recipe"]) for trial in controls}) == len(controls)
    for trial in controls:
        recipe = trial.user_attrs["control_recipe"]
        assert {name: trial.user_attrs[name] for name in ("finetune_epochs", "distill_epochs", "precision")} == {
            name: recipe[name] for name in ("finetune_epochs", "distill_epochs", "precision")
        }
        assert trial.user_attrs["control_depth"] == int(trial.user_attrs["architecture"].split()[0])
        assert trial.user_attrs["parent"] == 0
        assert "fitness" not in trial.user_attrs
    # nobody counts them
    assert len(queries.finished_trials(opened.study)) == before
    assert {trial.number for trial in queries.complete_trials(opened.study)} == {0, 1, 2}
    # a second call, in another form, does nothing
    records = read("study", "controls", "tiny", "--random-masks", 1)
    assert len(controls_of(opened.study)) == len(controls)
    assert {record["number"] for record in records} == {None, *(trial.number for trial in controls)}
    assert records[-1]["control"] == "tfidf"
    assert {"quality", "latency_ms", "memory_mb"} == set(records[0]["values"])
    assert {"depth", "finetune_epochs", "distill_epochs", "precision", "failure"} <= set(records[0])
    # predictions of the front, of the base model and of all controls are there, and no others
    stored = {path.stem for path in PredictionStore(opened.folder).folder.glob("*.npz")}
    assert stored == {"0", "tfidf", *map(str, front), *(str(trial.number) for trial in controls)}
    check_what_is_shown(opened, front)


def check_what_is_shown(opened: OpenStudy, front: set[int]) -> None:
    """`pareto`, `show`, `trials` after the controls have run."""
    result = run("study", "pareto", "tiny", "-f", "json")
    for record in json.loads(result.out):
        found = record["comparison"]
        if record["number"] not in front:
            assert found is None
            continue
        assert list(found) == ["control", "trial", "difference", "low", "high", "verdict"]
        control = opened.study.get_trials()[found["trial"]]
        assert control.user_attrs["control"] == found["control"]
        assert found["difference"] == pytest.approx(record["values"]["quality"] - control.values[0])
        assert found["low"] <= found["difference"] <= found["high"]
        assert found["verdict"] in ("better", "worse", "no difference shown")
    assert f"of {len(front)} members" in result.err
    assert "TF-IDF and a linear model reach" in result.err
    table = run("study", "pareto", "tiny").out
    assert "difference (95 % interval)" in table
    assert "failure" not in table.splitlines()[0]
    rows = list(csv.DictReader(io.StringIO(run("study", "pareto", "tiny", "-f", "csv").out)))
    assert any(row["comparison.verdict"] for row in rows)
    shown = read("study", "show", "tiny")
    assert shown["tfidf"] > 0.9
    assert shown["controls"] == len(controls_of(opened.study))
    assert "first-2" in run("study", "trials", "tiny").out
    notes = opened.study._storage.get_study_system_attrs(opened.study._study_id)
    assert any(str(text).count("Control `first-2`, made without a search") for text in notes.values())


def test_weights_that_differ_in_precision_only_are_trained_once(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    context = objective.prepare(opened.study)
    recipe = {"layers": [0, 1], "finetune_epochs": 1, "distill_epochs": 0}
    for precision in ("fp32", "bf16"):
        marks = {"control": "c", "control_recipe": {**recipe, "precision": precision}, "control_depth": 2}
        opened.study.enqueue_trial({}, user_attrs=marks)
        opened.study.optimize(objective, n_trials=1)
    first, second = controls_of(opened.study)
    assert first.user_attrs["checkpoint"] == second.user_attrs["checkpoint"]
    assert first.user_attrs["training_result"]["steps"] == 10  # 160 texts in batches of 16
    assert second.user_attrs["training_result"] == {}
    assert second.user_attrs["finetune_epochs"] == 1
    assert second.values[2] == pytest.approx(first.values[2] / 2)
    weights, architecture = context.checkpoints.read(second.user_attrs["checkpoint"])
    assert architecture.kept_layers == (0, 1)  # type: ignore[attr-defined]
    assert build(architecture, context.task.load_model()).load_state_dict(weights)


def test_no_sampler_learns_from_them(opened: OpenStudy) -> None:
    marks = {"control": "c", "control_recipe": {}}
    for _ in range(3):  # better than anything in every objective
        opened.study.add_trial(optuna.trial.create_trial(values=[1.0, 0.0, 0.0], user_attrs=marks))
    sampler = opened.study.sampler
    assert isinstance(sampler, GeneticSampler)
    assert {trial.number for trial in sampler.elite(opened.study)} == {0, 1, 2}
    trial = opened.study.ask()
    assert parent_of(trial) in (0, 1, 2)
    assert set(proposed_params(trial)) == set(BASE)
    assert {trial.number for trial in pareto_trials(opened)} <= {0, 1, 2}


def test_more_random_masks_run_what_is_new(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    few = missing_controls(opened, objective, 0)
    many = missing_controls(opened, objective, 2)
    assert [item.recipe for item in few] == [item.recipe for item in many if not item.label.startswith("random")]


def test_an_interrupted_control_is_tried_again_and_a_failed_one_is_shown(
    opened: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(opened.config, opened.artifacts)
    some = missing_controls(opened, objective, 0)[:2]
    family = type(objective.method.controls)
    make, calls = family.make, iter(["interrupt", "fail"])

    def make_control(*arguments: Any) -> Any:
        match next(calls, None):
            case "interrupt":
                raise KeyboardInterrupt("Ctrl-C")
            case "fail":
                raise MemoryError("no room")
        return make(*arguments)

    monkeypatch.setattr(family, "make", make_control)
    with pytest.raises(KeyboardInterrupt):
        run_controls(opened, objective, some, lambda trial: None)
    assert len(controls_of(opened.study)) == 1  # the other was not queued
    ended: list[optuna.trial.FrozenTrial] = []
    left = missing_controls(opened, objective, 0)
    assert left[:2] == some
    run_controls(opened, objective, some, ended.append)
    assert [trial.state for trial in ended] == [TrialState.FAIL, TrialState.COMPLETE]
    assert ended[0].user_attrs[attributes.RETRY_OF] == controls_of(opened.study)[0].number
    assert missing_controls(opened, objective, 0) == left[2:]
    assert len(queries.finished_trials(opened.study)) == len(MEMBERS)
    failed = [record for record in control_records(opened) if record["state"] == "FAIL"]
    assert [record["failure"] for record in failed] == ["MemoryError: no room"]


def test_the_control_of_a_killed_process_is_tried_again(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    control = missing_controls(opened, objective, 0)[0]
    marks = {"control": control.label, "control_recipe": control.recipe, "control_depth": control.depth}
    opened.study.enqueue_trial({}, user_attrs=marks)
    opened.study.ask().set_user_attr(attributes.WORKER, GONE)
    missing = missing_controls(opened, objective, 0)
    assert control in missing
    run_controls(opened, objective, [control], lambda trial: None)
    killed, again = controls_of(opened.study)
    assert (killed.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert control not in missing_controls(opened, objective, 0)


def test_a_control_that_was_left_behind_takes_no_trial_of_a_search(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    control = missing_controls(opened, objective, 0)[0]
    marks = {"control": control.label, "control_recipe": control.recipe, "control_depth": control.depth}
    opened.study.enqueue_trial({}, user_attrs=marks)
    before = len(queries.finished_trials(opened.study))
    result = run("study", "optimize", "tiny", "--n-trials", 1)
    assert result.code == 0, result.err
    assert len(queries.finished_trials(opened.study)) == before + 1
    assert [trial.state for trial in controls_of(opened.study)] == [TrialState.COMPLETE]


def test_the_base_model_is_no_control_of_itself(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    recipe = {"layers": [0, 1, 2], "finetune_epochs": 0, "distill_epochs": 0, "precision": "fp32"}
    marks = {"control": "full-0", "control_recipe": recipe, "control_depth": 3}
    opened.study.enqueue_trial({}, user_attrs=marks)
    opened.study.optimize(objective, n_trials=1)
    (control,) = controls_of(opened.study)
    assert attributes.IS_BASE not in control.user_attrs
    assert control.user_attrs["checkpoint"] == opened.study.get_trials()[0].user_attrs["checkpoint"]
    assert control.values[0] == opened.study.get_trials()[0].values[0]


def test_a_repeated_trial_has_predictions(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    number = min(member.number for member in members_of(opened))
    opened.study.enqueue_trial(MEMBERS[number - 1], user_attrs={"parent": 0})
    opened.study.optimize(objective, n_trials=1)
    repeated = opened.study.get_trials()[-1]
    assert repeated.user_attrs[attributes.REPEATS] == number
    store = PredictionStore(opened.folder)
    mine, its = store.read(repeated.number), store.read(number)
    assert mine is not None
    assert its is not None
    assert (mine.values == its.values).all()


def test_a_study_from_before_predictions_were_stored(opened: OpenStudy) -> None:
    objective = Objective(opened.config, opened.artifacts)
    run_controls(opened, objective, missing_controls(opened, objective, 0)[:1], lambda trial: None)
    for path in PredictionStore(opened.folder).folder.glob("*.npz"):
        path.unlink()
    result = succeed("study", "pareto", "tiny", "-f", "json")
    found = [record["comparison"] for record in json.loads(result.out) if record["comparison"]]
    assert {item["verdict"] for item in found} == {"unknown"}
    assert "no predictions are stored of trial" in result.err
    assert "unknown: no predictions stored" in run("study", "pareto", "tiny").out


@pytest.mark.usefixtures("study_folder")
def test_nothing_to_compare_is_one_line(write_study: WriteStudy) -> None:
    run("study", "create", write_study())
    assert_refused(run("study", "controls", "tiny"), "run `nasopt study optimize tiny` first")
    opened = reopened()
    run_base(opened, Objective(opened.config, opened.artifacts))
    with pytest.raises(TrialNotFoundError, match="nothing yet"):
        members_of(opened)
