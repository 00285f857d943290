"""The installed methods: found by name, made with checked options, and listed without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from nasopt.config.study import StudyConfig
from nasopt.errors import StudyFileError
from nasopt.methods.registry import available, find, make_method


def config(**changes: Any) -> StudyConfig:
    task = {"model": "m", "dataset": {"path": "d", "text": ["text"]}}
    return StudyConfig.model_validate({"name": "tiny", "method": "genetic", "task": task, **changes})


def test_each_method_is_found_under_the_name_that_it_gives_itself() -> None:
    assert {"adabert", "alphanas", "bayesian", "genetic", "taylor"} <= available().keys()
    assert all(method.about.name == name for name, method in available().items())


def test_a_method_gets_its_options() -> None:
    method = make_method(config(method_options={"population_size": 7, "generations": 3}))
    assert type(method) is find("genetic")
    assert method.plan.budget == 21


def test_an_unknown_method_is_told_with_those_that_there_are() -> None:
    with pytest.raises(StudyFileError, match=r"method: 'genetics' is not a method; one of .*genetic"):
        find("genetics")


def test_a_method_refuses_tasks_that_it_is_not_for() -> None:
    pairs = {
        "type": "sentence-similarity",
        "model": "m",
        "metric": "retrieval",
        "dataset": {"path": "d", "text": ["a", "b"]},
    }
    with pytest.raises(StudyFileError, match=r"task\.type: adabert does not search models for sentence-similarity"):
        make_method(config(method="adabert", task=pairs))


def test_options_that_are_not_allowed_are_named() -> None:
    with pytest.raises(StudyFileError, match=r"method_options\.population_size.*; method_options\.wings"):
        make_method(config(method_options={"population_size": 1, "wings": 2}))


@pytest.mark.integration
def test_listing_the_methods_imports_no_torch() -> None:
    code = """
import sys
from nasopt.methods.registry import available
for method in available().values():
    method(method.about.options()).plan
assert "torch" not in sys.modules
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
