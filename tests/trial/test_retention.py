"""Tests which checkpoints and predictions stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from nasopt.architecture.encoder import Architecture
from nasopt.methods.alphanas.method import AlphaNASMethod, AlphaNASOptions
from nasopt.methods.base import Method
from nasopt.methods.genetic.method import GeneticMethod
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.samplers.genetic import GeneticSampler
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.training.context import BaseTrial, Context
from nasopt.trial.retention import collect, possible_parents

GENETIC = GeneticMethod(GeneticOptions(population_size=2, start="base"))
ALPHANAS = AlphaNASMethod(AlphaNASOptions(population_size=2))


class Search:
    """A study whose trials have small checkpoints and predictions."""

    def __init__(self, method: Method, context: Context) -> None:
        self.method, self.context = method, context
        self.study = optuna.create_study(
            directions=["maximize", "minimize", "minimize"], sampler=method.sampler(seed=0)
        )
        self.keys: list[str] = []

    def add(
        self, values: tuple[float, float, float] | None, state: TrialState = TrialState.COMPLETE, **marks: object
    ) -> None:
        """Adds a trial of its own genotype, with files of its own."""
        number = len(self.keys)
        architecture = Architecture.full(self.context.shape)
        self.keys.append(self.context.checkpoints.write({"weight": torch.full((2,), float(number))}, architecture))
        predictions = Predictions.of_outputs(
            np.zeros((3, 2), dtype=np.float32), np.zeros(3, dtype=np.int64), "split", classes=True
        )
        PredictionStore(self.context.folder).write(number, predictions)
        self.study.add_trial(
            optuna.trial.create_trial(
                values=values,
                state=state,
                params={"heads_0": number},
                distributions={"heads_0": optuna.distributions.IntDistribution(0, 100)},
                user_attrs={"checkpoint": self.keys[-1], **marks},
            )
        )

    def left(self) -> tuple[set[int], set[int]]:
        """Numbers of the trials whose checkpoints, and whose predictions, are there after collecting."""
        collect(self.study, self.method, self.context)
        checkpoints = {number for number, key in enumerate(self.keys) if key in self.context.checkpoints}
        assert self.context.base_key in self.context.checkpoints
        return checkpoints, {int(path.stem) for path in PredictionStore(self.context.folder).folder.glob("*.npz")}


@pytest.fixture
def begun(context: Context) -> Context:
    return replace(context, base=BaseTrial(0, (0.9, 10.0, 10.0), {}))


@pytest.fixture
def inheriting(begun: Context) -> Search:
    return Search(GENETIC, begun)


def test_parents_to_be_and_the_front_stay(inheriting: Search) -> None:
    inheriting.add((0.9, 10.0, 10.0), base=True)
    inheriting.add((0.8, 5.0, 5.0))
    inheriting.add((0.1, 9.0, 9.0))  # dominated
    assert isinstance(inheriting.study.sampler, GeneticSampler)
    elite = {trial.number for trial in inheriting.study.sampler.elite(inheriting.study)}
    assert elite == {0, 1}
    assert inheriting.left() == ({0, 1}, {0, 1})


def test_dominated_parents_stay_without_predictions(inheriting: Search) -> None:
    inheriting.add((0.1, 10.0, 10.0), base=True)
    inheriting.add((0.8, 5.0, 5.0))
    assert inheriting.left() == ({0, 1}, {0, 1})  # the base model's predictions are compared with
    inheriting.add((0.7, 6.0, 6.0))
    checkpoints, predictions = inheriting.left()
    assert checkpoints == {1, 2}
    assert predictions == {0, 1}


def test_where_nothing_is_inherited_only_the_front_stays(begun: Context) -> None:
    search = Search(ALPHANAS, begun)
    search.add((0.1, 10.0, 10.0), base=True)
    search.add((0.8, 5.0, 5.0))
    search.add((0.7, 6.0, 6.0))
    assert possible_parents(search.study, ALPHANAS) == ()
    assert search.left() == ({1}, {0, 1})


def test_of_the_controls_the_latest_checkpoint_and_all_predictions_stay(inheriting: Search) -> None:
    inheriting.add((0.9, 1.0, 1.0), base=True)
    for _ in range(2):
        inheriting.add((0.1, 9.0, 9.0), control="first-1", control_recipe={})
    assert inheriting.left() == ({0, 2}, {0, 1, 2})


def test_what_is_being_used_stays(inheriting: Search) -> None:
    inheriting.add((0.9, 1.0, 1.0), base=True)
    inheriting.add((0.95, 0.5, 0.5))
    inheriting.add((0.96, 0.4, 0.4))
    inheriting.add((0.1, 9.0, 9.0))
    inheriting.add((0.1, 9.0, 9.0))
    inheriting.add(None, TrialState.RUNNING, parent=3)
    assert inheriting.left() == ({1, 2, 3, 5}, {0, 2, 5})


def test_possible_parents_are_the_samplers_elite(inheriting: Search) -> None:
    inheriting.add((0.9, 1.0, 1.0), base=True)
    assert [trial.number for trial in possible_parents(inheriting.study, GENETIC)] == [0]
    inheriting.study.sampler = optuna.samplers.RandomSampler(seed=0)  # the user's own, which has no elite
    assert possible_parents(inheriting.study, GENETIC) == ()


def test_both_fronts_stay_with_and_without_provisional_trials(begun: Context) -> None:
    search = Search(ALPHANAS, begun)
    search.add((0.9, 10.0, 10.0), base=True)
    search.add((0.8, 5.0, 5.0))
    search.add((0.85, 4.0, 4.0), provisional=True)  # dominates the final one
    search.add((0.84, 4.0, 4.0), provisional=True)
    search.add((0.7, 6.0, 6.0))
    assert search.left() == ({0, 1, 2}, {0, 1, 2})
