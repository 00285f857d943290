"""Configurations of earlier schemas keep the defaults that they were created with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nasopt.config.study import SCHEMA_VERSION, StudyConfig
from nasopt.methods.registry import make_method


def stored(schema: int, method: str, **options: Any) -> StudyConfig:
    task = {"model": "m", "dataset": {"path": "d", "text": ["t"]}}
    document = {"schema": schema, "name": "s", "method": method, "task": task, "method_options": options}
    return StudyConfig.from_json(json.dumps(document))


def test_genetic_studies_of_the_first_schema_choose_by_magnitude_and_start_at_the_base() -> None:
    options = make_method(stored(1, "genetic", population_size=4)).options
    assert (options.pruning, options.start, options.population_size) == ("magnitude", "base", 4)
    assert options.used_mutations == ("remove_last",)


def test_genetic_studies_of_the_second_schema_start_by_fisher_information_and_remove_the_last() -> None:
    options = make_method(stored(2, "genetic")).options
    assert (options.pruning, options.start, options.criterion) == ("fisher", "fisher", "fisher")
    assert options.used_mutations == ("remove_last",)


def test_fisher_studies_of_the_second_schema_end_at_a_tenth() -> None:
    assert make_method(stored(2, "fisher")).options.lowest_share == 0.1
    assert make_method(stored(SCHEMA_VERSION, "fisher")).options.lowest_share is None


def test_fisher_studies_of_the_third_schema_add_up_what_goes() -> None:
    assert make_method(stored(3, "fisher")).options.criteria == ("fisher", "obs")
    assert make_method(stored(SCHEMA_VERSION, "fisher")).options.criteria == ("joint", "obs")


def test_what_such_a_study_says_itself_stays() -> None:
    assert make_method(stored(1, "genetic", pruning="json:loads")).options.pruning == "json:loads"


@pytest.mark.parametrize("method", ["alphanas", "taylor"])
def test_other_methods_are_as_they_were(method: str) -> None:
    assert stored(1, method, a=1).method_options == {"a": 1}


def test_the_present_schema_has_the_present_defaults() -> None:
    config = stored(SCHEMA_VERSION, "genetic")
    assert config.method_options == {}
    options = make_method(config).options
    assert (options.pruning, options.start) == ("obs", "fisher")
    assert options.used_mutations == ("remove_least", "restore_most")
    assert StudyConfig.from_json(config.to_json()) == config
