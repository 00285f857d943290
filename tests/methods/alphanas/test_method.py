"""AlphaNAS on the tiny model: masks that are trained, that are not, and that are refused before anything is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from command_line import read, run, trials_of

import nasopt
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import open_study
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration

FULL = {"layer_0": 1, "layer_1": 1, "layer_2": 1}


@pytest.fixture
def write(write_study: Callable[..., Path]) -> Callable[..., Path]:
    def write(options: str = "population_size = 3\ngenerations = 4\nmin_quality = 0\n", **more: str) -> Path:
        return write_study(method="alphanas", options=options, **more)

    return write


def test_a_whole_search_tries_every_mask_once(study_folder: Path, write: Callable[..., Path]) -> None:
    run("study", "create", write())
    result = run("study", "optimize", "tiny")
    assert "every genotype the method can reach has been tried" in result.err
    # The tiny model has three layers, so seven masks: the full one is trial 0.
    done = [trial for trial in trials_of() if trial["state"] == "COMPLETE"]
    assert sorted(tuple(trial["params"].values()) for trial in done) == [
        mask for mask in product((0, 1), repeat=3) if any(mask)
    ]
    assert done[0]["params"] == {"layer_0": 1, "layer_1": 1, "layer_2": 1}
    assert {trial["precision"] for trial in done} == {"fp32"}
    assert [trial["parent"] for trial in done] == [None, 0, 0, 0, 0, 0, 0]
    shown = read("study", "show", "tiny")
    assert set(shown["not_trained"]) == {"rejected", "screened", "repeated", "known_drawn"}
    assert shown["not_trained"]["known_drawn"] > 0
    study = open_study(parse_url("sqlite:///nasopt.db"), "tiny").study
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            expected = trial.values[0] - 1e-9 * trial.user_attrs["parameters"]
            assert trial.user_attrs["score"] == pytest.approx(expected)
    number = shown["best_mask"]["trial"]
    assert shown["best_mask"]["score"] == max(trial.user_attrs.get("score", -9) for trial in study.trials)
    run("study", "export", "tiny", "--trial", str(number), "--to", "exported")
    model, _ = nasopt.load("exported")
    assert model.config.num_hidden_layers == sum(study.trials[number].params.values())


@pytest.mark.slow
def test_a_mask_that_is_too_large_is_rejected_without_training(study_folder: Path, write: Callable[..., Path]) -> None:
    # Trial 0 is always evaluated, marked infeasible, and allowed as a parent.
    run("study", "create", write("population_size = 3\ngenerations = 1\nmin_quality = 0\nmax_parameters = 50000\n"))
    run("study", "optimize", "tiny")
    base, *others = trials_of()
    assert (base["state"], base["feasible"]) == ("COMPLETE", False)
    for trial in others:  # two layers have more than 50,000 parameters
        alone = sum(trial["params"].values()) == 1
        assert (trial["state"], trial["feasible"]) == (("COMPLETE", True) if alone else ("PRUNED", False)), trial
    shown = read("study", "pareto", "tiny")
    assert 0 not in [trial["number"] for trial in shown]
    # Another sampler may ask for the full mask again, and for others that are too large.
    opened = open_study(parse_url("sqlite:///nasopt.db"), "tiny")
    objective = Objective(opened.config, opened.artifacts)
    opened.study.enqueue_trial(FULL, user_attrs={"parent": 1})
    opened.study.enqueue_trial({**FULL, "layer_1": 0}, user_attrs={"parent": 1})
    opened.study.enqueue_trial(dict.fromkeys(FULL, 0))
    opened.study.enqueue_trial(others[0]["params"])
    opened.study.enqueue_trial({"layer_0": 1})
    opened.study.optimize(objective, n_trials=5)
    full, big, empty, known, short = opened.study.trials[-5:]
    assert (full.user_attrs["repeats"], full.values) == (0, opened.study.trials[0].values)
    assert big.state.name == "PRUNED"
    assert "above max_parameters (50,000): not trained" in big.user_attrs["rejected"]
    assert big.constraints["parameters"] > 0
    assert (empty.state.name, empty.user_attrs["rejected"]) == ("PRUNED", "the mask keeps no layer")
    assert known.state.name == "COMPLETE"
    first = opened.study.trials[known.user_attrs["repeats"]]
    assert (known.values, known.params) == (first.values, first.params)
    assert "the trial's mask has 1 bits, but the model has 3 layers" in short.user_attrs["failure"]
    record = read("study", "show", "tiny")["not_trained"]
    rejected = [trial for trial in opened.study.trials if "rejected" in trial.user_attrs]
    assert {big.number, empty.number} <= {trial.number for trial in rejected}
    assert all(trial.state.name == "PRUNED" and "training_result" not in trial.user_attrs for trial in rejected)
    assert (record["rejected"], record["repeated"]) == (len(rejected), 2)


def test_a_quality_below_the_minimum_is_infeasible(study_folder: Path, write: Callable[..., Path]) -> None:
    run("study", "create", write("population_size = 2\ngenerations = 1\nmin_quality = 1.0\n"))
    run("study", "optimize", "tiny", "--n-trials", "2")
    found = open_study(parse_url("sqlite:///nasopt.db"), "tiny").study.trials
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    for trial in found:
        assert trial.constraints["quality"] == pytest.approx(1.0 - trial.values[0])


def test_what_cannot_be_satisfied_is_refused_at_once(study_folder: Path, write: Callable[..., Path]) -> None:
    result = run("study", "create", write("max_parameters = 1000\n"))
    assert result.code == 2
    assert "method_options.max_parameters: 1,000, but no mask can satisfy it" in result.err
    result = run("study", "create", write("min_quality = 1.5\n"))
    assert result.code == 2
    assert "method_options.min_quality" in result.err
    result = run("study", "create", write("lambda = -1\n"))
    assert result.code == 2
    assert "method_options.lambda" in result.err
