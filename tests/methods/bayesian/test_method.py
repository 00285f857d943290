"""The Bayesian method on the tiny classifier: the start of students, records, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run

from nasopt.storage.rdb import parse_url
from nasopt.study.opening import open_study

pytestmark = pytest.mark.integration

OPTIONS = """trials = 5
population_size = 3
posterior_rank = 4
posterior_collections = 8
learning_rate = [1e-4, 1e-2]
objectives = ["ce", "map", "elbo", "hinton"]
removable_layers = [0, 1]
"""


@pytest.fixture
def write(write_study: Callable[..., Path]) -> Callable[..., Path]:
    def write(options: str = OPTIONS, **more: str) -> Path:
        return write_study(method="bayesian", options=options, **more)

    return write


def _trials():
    return open_study(parse_url("sqlite:///nasopt.db"), "tiny").study.get_trials(deepcopy=False)


def test_a_search_records_where_students_start(study_folder: Path, write: Callable[..., Path]) -> None:
    run("study", "create", write())
    run("study", "optimize", "tiny")
    base, *others = _trials()
    assert base.params.keys() == {f"layer_{i}" for i in range(3)} | {
        "posterior",
        "objective",
        "prior_strength",
        "learning_rate",
    }
    assert [trial.state.name for trial in others] == ["COMPLETE"] * 5  # a layer stays in every student
    assert len(list(study_folder.rglob("posterior/*.safetensors"))) == 1
    for trial in others:
        if (number := trial.user_attrs.get("repeats")) is not None:  # only what `ce` and `hinton` do not know differs
            assert trial.params["objective"] in ("ce", "hinton")
            same = {**_trials()[number].params, "prior_strength": trial.params["prior_strength"]}
            assert {**same, "posterior": trial.params["posterior"]} == trial.params
        assert len(trial.user_attrs["validation_losses"]) == 2  # before training, and after the epoch
        removed = {str(layer) for layer in range(3) if not trial.params[f"layer_{layer}"]}
        distances = trial.user_attrs["distance_to_zero"]
        assert distances.keys() == removed
        assert all((value is None) == (trial.params["posterior"] == "point") for value in distances.values())
        assert all(value is None or value > 0 for value in distances.values())
        assert ("validation_loss_zeroed" in trial.user_attrs) == bool(removed)  # BERT is post-norm


def test_controls_start_elsewhere_with_the_same_layers(study_folder: Path, write: Callable[..., Path]) -> None:
    fixed = 'posteriors = ["low_rank"]\nobjectives = ["map"]\nprior_strength = [1e-3, 1e-3]\nremovable_layers = [1]\n'
    run("study", "create", write(f'trials = 3\nsampler = "random"\nposterior_collections = 8\n{fixed}'))
    run("study", "optimize", "tiny")
    searched = _trials()[1:]
    assert [trial.state.name for trial in searched] == ["COMPLETE"] * 3
    assert {tuple(trial.params) for trial in searched} == {("layer_0", "layer_1", "layer_2")}
    assert {trial.params["layer_0"] for trial in searched} == {1}
    run("study", "controls", "tiny", "--random-masks", "1")
    controls = {t.user_attrs["control"].rsplit("-")[0]: t for t in _trials() if "control" in t.user_attrs}
    assert {"first", "sliced", "uniform", "initial"} <= controls.keys()
    assert all(trial.state.name == "COMPLETE" for trial in controls.values())
    before = [controls[name].user_attrs["validation_losses"][0] for name in ("sliced", "uniform", "initial")]
    assert len(set(before)) == 3


def test_a_base_model_that_came_trained_is_trained_a_little_further(
    study_folder: Path, write: Callable[..., Path], tiny_bert: Path, trained_bert: Path
) -> None:
    options = (
        'trials = 1\nposteriors = ["low_rank"]\nobjectives = ["ce"]\nposterior_epochs = 1\nremovable_layers = [1]\n'
    )
    run("study", "create", write(options, **{str(tiny_bert): str(trained_bert)}))
    run("study", "optimize", "tiny")
    assert len(list(study_folder.rglob("posterior/*.safetensors"))) == 1
    base, student = _trials()
    assert student.state.name == "COMPLETE", student.user_attrs
    assert (base.user_attrs["finetune_epochs"], base.user_attrs["training_budget"]) == (0, 0.0)
    assert student.user_attrs["finetune_epochs"] == 2  # one of the copy that the posterior was collected from
    assert len(student.user_attrs["validation_losses"]) == 2


@pytest.fixture
def trained_bert(tmp_path: Path, tiny_bert: Path) -> Path:
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = tmp_path / "trained"
    labels = {0: "negative", 1: "positive"}
    model = BertForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=2, id2label=labels, label2id={label: index for index, label in labels.items()}
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("removable_layers = [3]", ["removable_layers: 3", "0 to 2"]),
        ("learning_rate = [1e-2, 1e-4]", ["learning_rate", "ends before it begins"]),
        ('posteriors = ["full"]', ["posteriors", "point, diagonal, low_rank"]),
        ("prior_strength = [0, 1]", ["prior_strength", "greater than 0"]),
        ('sampler = "best"', ["sampler", "nsga2, tpe, gp, random"]),
    ],
)
def test_wrong_options_are_one_line(
    study_folder: Path, write: Callable[..., Path], options: str, words: list[str]
) -> None:
    result = run("study", "create", write(f"{options}\n"))
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert all(word in result.err for word in words), result.err


def test_shown_with_the_methods() -> None:
    assert "bayesian" in run("methods").out
    assert json.dumps("bayesian") in run("methods", "-f", "json").out
