"""The training of a Taylor student: options that are searched, fixed, or the study's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import TrainingConfig
from nasopt.methods.taylor.options import TaylorOptions
from nasopt.methods.taylor.weights import Recipe, distilled
from nasopt.training.candidate import Lineage
from nasopt.training.context import Context

TRAINING = TrainingConfig(epochs=3, learning_rate=2e-5)


@pytest.mark.parametrize(
    ("params", "options", "expected"),
    [
        ({}, {}, Recipe(2e-5, 1.0, 1.0, 3)),
        ({}, {"learning_rate": 1e-3, "output_weight": 0.5}, Recipe(1e-3, 1.0, 0.5, 3)),
        ({"learning_rate": 5e-4}, {"learning_rate": (1e-4, 1e-3)}, Recipe(5e-4, 1.0, 1.0, 3)),
        ({"ranking_weight": 0.25, "epochs": 7}, {"ranking_weight": (0.0, 1.0)}, Recipe(2e-5, 0.25, 1.0, 7)),
    ],
    ids=["study", "fixed", "searched", "control"],
)
def test_a_recipe_takes_what_is_nearest(params: dict[str, float], options: dict[str, object], expected: Recipe) -> None:
    assert Recipe.of(params, TaylorOptions.model_validate(options), TRAINING) == expected


@pytest.mark.integration
def test_a_student_is_cut_and_distilled(context: Context) -> None:
    architecture = Architecture.masked(context.shape, [1, 0, 1])
    source = distilled(Recipe(1e-3, 1.0, 1.0, epochs=2), TaylorOptions(), context)
    candidate = source.candidate(architecture, context)
    assert replace(candidate.lineage, budget=0.0) == Lineage(None, distill_epochs=2)
    assert candidate.lineage.budget == pytest.approx(2 * context.epoch_cost(candidate.architecture))
    assert candidate.training["steps"] == 20
    assert candidate.architecture == architecture
