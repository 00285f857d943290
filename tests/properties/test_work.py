"""Genotypes that build equal candidates are equal work, and are trained once: a property of every method."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from cases import mostly_slow
from hypothesis import HealthCheck, Phase, assume, given, settings
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from study_text import study_text

from nasopt.errors import NasoptError
from nasopt.study.creation import read_study_file
from nasopt.testing.small_study import SmallStudy
from nasopt.training.candidate import Candidate, RejectedCandidateError
from nasopt.trial.proposal import base_candidate

pytestmark = pytest.mark.integration

OPTIONS = {
    "genetic": 'population_size = 3\ngenerations = 2\nprecisions = ["fp32", "bf16"]',
    "alphanas": "population_size = 2\ngenerations = 2\nmin_quality = 0",
    "adabert": "hidden_size = 8\ncells = 3\nlayer_pairs = [[0, 0]]\nsearch_epochs = 1",
    "taylor": "heads = [0.25, 1.0]\nffn = [0.34, 1.0]\nlearning_rate = [1e-4, 1e-3]\nsaliency_examples = 16",
    "bayesian": 'posterior_rank = 2\nposterior_collections = 4\nobjectives = ["ce", "map", "hinton"]',
    "bayesian, no soft targets": 'posterior_rank = 2\nobjectives = ["ce", "hinton"]\nsoft_weight = 0.0',
}


METHODS = ("genetic", "alphanas", "adabert", "taylor", "bayesian")
CE = {"layer_0": 1, "layer_1": 1, "layer_2": 1, "posterior": "diagonal", "objective": "ce", "prior_strength": 1e-3}
CELLS = {"cell_0": "maxpool", "cell_1": "skip", "cell_2": "conv3"}
BASE = {**CE, "posterior": "point", "prior_strength": 1e-6}
"""The base model itself, which is not trained."""
ALIKE: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "bayesian": [
        (CE, {"prior_strength": 1.0}),
        (CE, {"posterior": "low_rank"}),
        ({**CE, "layer_1": 0, "objective": "hinton"}, {"prior_strength": 1.0}),
    ],
    "bayesian, no soft targets": [({**CE, "layer_1": 0}, {"objective": "hinton"})],
    "adabert": [(CELLS, {"cell_0": "skip", "cell_1": "maxpool"})],
}
"""Genotypes, and changes that change nothing."""
DIFFERENT: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "bayesian": [
        ({**CE, "objective": "map"}, {"prior_strength": 1.0}),
        ({**CE, "layer_1": 0}, {"posterior": "low_rank"}),
        (CE, {"posterior": "point"}),
        (BASE, {"prior_strength": 1.0}),
    ],
    "adabert": [(CELLS, {"cell_1": "conv3", "cell_2": "skip"})],
}
"""Genotypes, and changes that come near to it."""


@pytest.fixture(scope="module")
def study_of(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Callable[[str], SmallStudy]:
    """Makes a study of a method with its base model; a training takes two steps."""

    @functools.cache
    def make(method: str) -> SmallStudy:
        folder = tmp_path_factory.mktemp("study")
        text = study_text(tiny_bert, sentiment, OPTIONS[method], method=method.partition(",")[0])
        splits = "[task.dataset]\nmax_samples = { train = 32 }"
        file = folder / "study.toml"
        file.write_text(text.replace("[task.dataset]", splits))
        return SmallStudy.created(read_study_file(file), folder)

    return make


def values(distribution: BaseDistribution) -> st.SearchStrategy[Any]:
    """Values of a parameter; few, so that genotypes often differ in one only."""
    if isinstance(distribution, CategoricalDistribution):
        return st.sampled_from(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if isinstance(distribution, FloatDistribution):
        return st.sampled_from([distribution.low, math.sqrt(distribution.low * distribution.high), distribution.high])
    return st.sampled_from(range(distribution.low, distribution.high + 1, distribution.step))


def built(study: SmallStudy, params: dict[str, Any]) -> Candidate:
    context = study.context.for_trial(1, None)
    if params == study.method.space(context.shape).base:
        return base_candidate(context)
    try:
        architecture = study.method.architecture(params, context)
    except (RejectedCandidateError, ValueError, NasoptError):
        assume(False)
    return study.method.weights(params, context).candidate(architecture, context)


def are_equal(first: Candidate, second: Candidate) -> bool:
    mine, its = first.model.state_dict(), second.model.state_dict()
    return (
        first.architecture.precision == second.architecture.precision
        and {name: tensor.shape for name, tensor in mine.items()} == {name: t.shape for name, t in its.items()}
        and all(torch.equal(tensor, its[name]) for name, tensor in mine.items())
    )


@pytest.mark.parametrize("method", mostly_slow(METHODS, ("alphanas", "bayesian")))
def test_equal_candidates_are_equal_work(method: str, study_of: Callable[[str], SmallStudy]) -> None:
    study = study_of(method)
    distributions = study.method.space(study.context.shape).distributions

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        params = {name: data.draw(values(distribution), name) for name, distribution in distributions.items()}
        changed = data.draw(st.lists(st.sampled_from(list(distributions)), min_size=1, max_size=2), "changed")
        other = params | {name: data.draw(values(distributions[name]), f"another {name}") for name in changed}
        assume(other != params)
        context = study.context.for_trial(1, None)
        mine, its = (study.method.weights(item, context).work(item) for item in (params, other))
        assert are_equal(built(study, params), built(study, other)) == (mine == its)

    check()


@pytest.mark.parametrize("method", ALIKE)
def test_what_changes_nothing_is_the_same_work(method: str, study_of: Callable[[str], SmallStudy]) -> None:
    study = study_of(method)
    context = study.context.for_trial(1, None)
    for pairs, expected in ((ALIKE, True), (DIFFERENT, False)):
        for params, change in pairs.get(method, ()):
            other = params | change
            mine, its = (study.method.weights(item, context).work(item) for item in (params, other))
            assert (mine == its) == expected, (params, change)
            assert are_equal(built(study, params), built(study, other)) == expected, (params, change)


def test_a_stored_trial_is_recognised_by_what_matters(study_of: Callable[[str], SmallStudy]) -> None:
    study = study_of("bayesian")
    opened = study.opened
    opened.study.enqueue_trial(CE)
    study.run(1)
    first = opened.study.trials[-1]
    resumed = SmallStudy.reopened(opened.folder.parents[1], opened.config.name)
    resumed.opened.study.enqueue_trial(CE | {"prior_strength": 1.0})
    resumed.run(1)
    second = resumed.opened.study.trials[-1]
    assert second.user_attrs["repeats"] == first.number
    assert second.values == first.values
