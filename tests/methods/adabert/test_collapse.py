"""The verdict on a search."""

from __future__ import annotations

import math

from nasopt.methods.adabert.collapse import cures, judge
from nasopt.methods.adabert.search_options import SearchOptions

UNIFORM = math.log(7)


def test_winners_without_parameters_are_a_collapse() -> None:
    verdict = judge(["avgpool", "skip", "maxpool"], [[UNIFORM] * 3, [0.1, 0.2, 0.3]])
    assert verdict.kind == "parameter-free"
    assert verdict.collapsed
    assert "avgpool skip maxpool" in verdict.text
    assert "0.20 of 1.95" in verdict.text


def test_one_convolution_is_none() -> None:
    verdict = judge(["avgpool", "conv3", "skip"], [[UNIFORM] * 3, [0.5, 0.4, 0.3]])
    assert verdict.kind == "fine"
    assert not verdict.collapsed


def test_an_entropy_that_does_not_fall_is_no_choice() -> None:
    verdict = judge(["conv5", "conv3"], [[UNIFORM] * 2, [0.95 * UNIFORM] * 2])
    assert verdict.kind == "undecided"
    assert "fallen by 5 %" in verdict.text


def test_parameter_free_counts_first() -> None:
    assert judge(["skip"], [[UNIFORM]]).kind == "parameter-free"


def test_advice_follows_the_measurements() -> None:
    """benchmarks/results/adabert.md: both searches with a warm-up collapsed; a small efficiency weight did not."""
    helped, _, did_not = cures("parameter-free").partition(";")
    assert "efficiency_weight" in helped
    assert all(name in did_not for name in ("warmup_epochs", "tau_start", "architecture_split", "did not help"))


def test_cures_are_options() -> None:
    for kind in ("parameter-free", "undecided"):
        words = cures(kind).replace(",", " ").replace("(", " ").replace(")", " ").split()
        names = [word.rstrip(";") for word in words if "_" in word]
        assert names
        assert set(names) <= set(SearchOptions.model_fields)
