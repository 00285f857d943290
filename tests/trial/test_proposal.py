"""Turns a trial into its candidate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

from nasopt.architecture.encoder import Architecture
from nasopt.methods.adabert.method import AdaBERTMethod
from nasopt.methods.adabert.options import AdaBERTOptions
from nasopt.methods.alphanas.method import AlphaNASMethod, AlphaNASOptions
from nasopt.methods.base import Method
from nasopt.methods.genetic.method import GeneticMethod
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.training.candidate import Candidate, Lineage, RejectedCandidateError
from nasopt.training.context import BaseTrial, Context
from nasopt.training.weights import Cut
from nasopt.trial.proposal import propose
from nasopt.trial.repetition import DoneWork

GENETIC = GeneticMethod(GeneticOptions(pruning="nasopt.models.surgery:keep_first", start="base"))
FULL = {f"{part}_{layer}": size for layer in range(3) for part, size in (("layer", 1), ("heads", 4), ("ffn", 128))}
BASE = {**FULL, "precision": "fp32", "training": "none"}
PRUNED = {**BASE, "heads_0": 2, "layer_1": 0}


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize", "minimize"])


@pytest.fixture
def begun(context: Context) -> Context:
    """The context of a study whose trial 0 is the base model."""
    return replace(context, base=BaseTrial(0, (0.9, 10.0, 1.0), {}))


def proposed(
    study: optuna.Study, context: Context, params: dict[str, Any], method: Method = GENETIC, **marks: Any
) -> Candidate | FrozenTrial:
    study.enqueue_trial(params, user_attrs=marks)
    return propose(study.ask(), method, context, DoneWork(method))


def candidate_of(*arguments: Any, **marks: Any) -> Candidate:
    found = proposed(*arguments, **marks)
    assert isinstance(found, Candidate)
    return found


def finish(study: optuna.Study, number: int, **attributes: Any) -> None:
    """Completes the trial under way, with all that later ones read of it."""
    trial_id = study.trials[number]._trial_id
    for name, value in attributes.items():
        study._storage.set_trial_user_attr(trial_id, name, value)
    study.tell(number, [0.5, 1.0, 1.0])


def test_the_base_models_parameters_are_the_base_model(study: optuna.Study, context: Context) -> None:
    found = candidate_of(study, context, BASE)
    assert found.model is context.base_model
    assert (found.architecture, found.lineage) == (Architecture.full(context.shape), Lineage())


def test_a_base_model_outside_the_space_needs_no_parameters(study: optuna.Study, context: Context) -> None:
    adabert = AdaBERTMethod(AdaBERTOptions(cells=1, layer_pairs=((0, 0),)))
    trial = study.ask()
    found = propose(trial, adabert, context, DoneWork(adabert))
    assert isinstance(found, Candidate)
    assert found.model is context.base_model
    assert trial.params == {}


def test_a_child_has_what_its_parent_left_behind(study: optuna.Study, begun: Context) -> None:
    proposed(study, begun, BASE)
    finish(study, 0, base=True)
    parent = candidate_of(study, begun, PRUNED, parent=0)
    with torch.no_grad():
        parent.model.get_parameter("classifier.bias").fill_(7.0)
    key = begun.checkpoints.write(parent.model.state_dict(), parent.architecture)
    finish(study, 1, checkpoint=key, parent=0, finetune_epochs=2, distill_epochs=1, training_budget=300.0)
    child = candidate_of(study, begun, {**PRUNED, "heads_0": 1}, parent=1)
    assert child.lineage == Lineage(1, finetune_epochs=2, distill_epochs=1, budget=300.0)
    assert child.architecture.layers[0].heads == (0,)  # type: ignore[attr-defined]
    assert child.model.get_parameter("classifier.bias").tolist() == [7.0, 7.0]


def test_work_that_was_done_is_not_done_again(study: optuna.Study, begun: Context) -> None:
    proposed(study, begun, BASE)
    finish(study, 0, base=True)
    proposed(study, begun, PRUNED, parent=0)
    finish(study, 1, parent=0)
    found = proposed(study, begun, {**PRUNED, "heads_1": 0, "ffn_1": 0}, parent=0)
    assert isinstance(found, FrozenTrial)
    assert found.number == 1


def test_what_breaks_a_constraint_is_not_built(study: optuna.Study, begun: Context) -> None:
    method = AlphaNASMethod(AlphaNASOptions(max_parameters=50_000))
    with pytest.raises(RejectedCandidateError, match=r"above max_parameters \(50,000\): not trained") as rejected:
        proposed(study, begun, {"layer_0": 1, "layer_1": 0, "layer_2": 1}, method)
    assert rejected.value.constraints["parameters"] > 0


RECIPE = {"layers": [0, 2], "finetune_epochs": 1, "distill_epochs": 0, "precision": "fp32"}


def control(study: optuna.Study, context: Context, precision: str) -> Candidate:
    return candidate_of(study, context, {}, control="c", control_recipe={**RECIPE, "precision": precision})


def test_a_control_is_made_by_its_recipe(study: optuna.Study, begun: Context) -> None:
    found = control(study, begun, "bf16")
    assert found.architecture == Architecture.masked(begun.shape, [1, 0, 1]).with_precision("bf16")
    assert found.lineage == Lineage(0, finetune_epochs=1, budget=begun.epoch_cost(found.architecture))
    assert found.training["steps"] == 10


@pytest.mark.parametrize("damage", [False, True], ids=["whole", "damaged"])
def test_controls_that_differ_in_precision_only_are_trained_once(
    study: optuna.Study, begun: Context, damage: bool
) -> None:
    first = control(study, begun, "fp32")
    key = begun.checkpoints.write(first.model.state_dict(), first.architecture)
    finish(study, 0, checkpoint=key, finetune_epochs=1, training_budget=first.lineage.budget)
    if damage:
        file = begun.checkpoints.folder / f"{key}.safetensors"
        file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    second = control(study, begun, "int8")
    assert second.architecture == first.architecture.with_precision("int8")
    assert second.lineage == first.lineage
    assert bool(second.training) == damage  # a damaged one is trained again
    weights = second.model.to("cpu").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in first.model.to("cpu").state_dict().items())


def test_controls_of_another_recipe_share_nothing(study: optuna.Study, begun: Context) -> None:
    first = Cut().candidate(Architecture.masked(begun.shape, [1, 0, 1]), begun)
    key = begun.checkpoints.write(first.model.state_dict(), first.architecture)
    proposed(study, begun, {}, control="c", control_recipe={**RECIPE, "layers": [0, 1]})
    finish(study, 0, checkpoint=key, finetune_epochs=1)
    assert control(study, begun, "fp32").training["steps"] == 10
