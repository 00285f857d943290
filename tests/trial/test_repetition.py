from __future__ import annotations

import optuna
import pytest

from nasopt.records import names as attributes
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


def test_the_same_genotype_training_and_parent_are_the_same_work(study: optuna.Study) -> None:
    first = finish(study, HALF, parent=0)
    done = DoneWork()
    trial = study.ask()
    assert done.get(trial, HALF) == first  # no parent and the base model are the same weights
    assert done.get(trial, {**HALF, "training": "distill"}) is None
    trial.set_user_attr(attributes.PARENT, 1)
    assert done.get(trial, HALF) is None
    later = finish(study, HALF, parent=1)
    assert done.get(trial, HALF) == later  # what has come since is seen


def test_controls_and_unfinished_trials_are_nobodys_work(study: optuna.Study) -> None:
    finish(study, HALF, control="first-1")
    study.enqueue_trial(HALF)
    assert DoneWork().get(study.ask(), HALF) is None


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
