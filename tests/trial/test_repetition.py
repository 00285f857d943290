from __future__ import annotations

from dataclasses import replace

import optuna
import pytest

from nasopt.methods.alphanas.method import AlphaNASMethod, AlphaNASOptions
from nasopt.methods.genetic.method import GeneticMethod
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.records import names as attributes
from nasopt.training.context import BaseTrial, Context
from nasopt.trial.repetition import DoneWork, repeat

FULL = {"layer_0": 1, "layer_1": 1, "training": "none"}
HALF = {"layer_0": 1, "layer_1": 0, "training": "finetune"}


def finish(study: optuna.Study, params: dict[str, object], **marks: object) -> optuna.trial.FrozenTrial:
    """A complete trial with these parameters and user attributes."""
    distributions = {
        name: optuna.distributions.IntDistribution(0, 1)
        if isinstance(value, int)
        else optuna.distributions.CategoricalDistribution(("none", "finetune", "distill"))
        for name, value in params.items()
    }
    study.add_trial(
        optuna.trial.create_trial(
            values=[0.5, len(study.trials) + 1.0], params=params, distributions=distributions, user_attrs=marks
        )
    )
    return study.trials[-1]


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    finish(study, FULL, base=True)
    return study


@pytest.fixture
def begun(context: Context) -> Context:
    """The context of a study whose trial 0 is the base model."""
    return replace(context, base=BaseTrial(0, (0.5, 1.0), {}))


def test_the_same_genotype_training_and_parent_are_the_same_work(study: optuna.Study, begun: Context) -> None:
    first = finish(study, HALF, parent=0)
    done = DoneWork(GeneticMethod(GeneticOptions(start="base")))
    trial = study.ask()
    assert done.get(trial, HALF, begun) == first  # no parent and the base model are the same weights
    assert done.get(trial, {**HALF, "training": "distill"}, begun) is None
    trial.set_user_attr(attributes.PARENT, 1)
    assert done.get(trial, HALF, begun) is None
    later = finish(study, HALF, parent=1)
    assert done.get(trial, HALF, begun) == later  # what has come since is seen


def test_where_nothing_is_inherited_one_genotype_is_one_work(study: optuna.Study, begun: Context) -> None:
    mask = {"layer_0": 1, "layer_1": 0}
    first = finish(study, mask, parent=0)
    finish(study, mask, parent=1)
    done = DoneWork(AlphaNASMethod(AlphaNASOptions()))
    trial = study.ask()
    for parent in (None, 0, 1, 2):
        trial.set_user_attr(attributes.PARENT, parent)
        assert done.get(trial, mask, begun) == first
    assert done.get(trial, {"layer_0": 0, "layer_1": 1}, begun) is None


def test_controls_and_unfinished_trials_are_nobodys_work(study: optuna.Study, begun: Context) -> None:
    finish(study, HALF, control="first-1")
    study.enqueue_trial(HALF)
    assert DoneWork(GeneticMethod(GeneticOptions(start="base"))).get(study.ask(), HALF, begun) is None


def test_a_repeating_trial_gets_the_values_and_what_belongs_to_them(study: optuna.Study) -> None:
    first = finish(study, HALF, parent=0, checkpoint="abc", latency={"latency_ms": {}}, worker={"pid": 1}, retry_of=7)
    trial = study.ask()
    trial.set_user_attr(attributes.WORKER, {"pid": 2})
    assert repeat(trial, first) == tuple(first.values)
    assert trial.user_attrs == {
        "parent": 0,
        "checkpoint": "abc",
        "latency": {"latency_ms": {}},
        "worker": {"pid": 2},
        "repeats": first.number,
    }
