"""Weights inherited from another trial."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.errors import CheckpointError
from nasopt.models.surgery import cut, expand
from nasopt.training.candidate import Lineage
from nasopt.training.context import BaseTrial, Context, Parent
from nasopt.training.weights import Cut, Inherited
from nasopt.training.weights.inherited import full_size

ALL = tuple(range(128))
PARENT = Architecture((KeptUnits((0, 3), ALL), None, KeptUnits((0, 1, 2, 3), ALL[:64])))
CHILD = Architecture((KeptUnits((0, 1, 3), ALL), KeptUnits((2,), ALL), None))
"""Takes back a head of the first layer, and a part of the second; loses the third."""
QUERY = "bert.encoder.layer.{}.attention.self.query.weight"
HEAD = 16


@pytest.fixture
def child_of(context: Context) -> Context:
    """The context of a child of trial 7, whose weights are the base model's plus 1."""
    model = Cut().candidate(PARENT, context).model
    key = context.checkpoints.write({name: tensor + 1 for name, tensor in model.state_dict().items()}, PARENT)
    after = replace(context, base=BaseTrial(0, (0.9, 1.0, 1.0), {}))
    return after.for_trial(9, Parent(7, key, Lineage(4, finetune_epochs=2, distill_epochs=1, budget=400.0)))


def test_what_the_parent_has_is_the_parents_and_the_rest_the_base_models(child_of: Context) -> None:
    candidate = Inherited.of(child_of).candidate(CHILD, child_of)
    base, child = child_of.base_model.state_dict(), candidate.model.state_dict()
    first = base[QUERY.format(0)]
    inherited = [first[:HEAD] + 1, first[HEAD : 2 * HEAD], first[3 * HEAD :] + 1]  # head 1 comes from the base model
    assert torch.equal(child[QUERY.format(0)], torch.cat(inherited))
    assert torch.equal(child[QUERY.format(1)], base[QUERY.format(1)][2 * HEAD : 3 * HEAD])
    assert torch.equal(child["classifier.bias"], base["classifier.bias"] + 1)
    assert candidate.model.config.num_hidden_layers == 2


def test_it_is_the_expanded_parent_cut_to_the_child(child_of: Context) -> None:
    assert child_of.parent is not None
    weights, architecture = child_of.checkpoints.read(child_of.parent.checkpoint)
    assert isinstance(architecture, Architecture)
    expected = cut(expand(child_of.base_model, weights, architecture), CHILD).state_dict()
    check_equal(Inherited.of(child_of).candidate(CHILD, child_of).model.state_dict(), expected)


def test_the_line_goes_on_from_the_parent(child_of: Context) -> None:
    assert Inherited.of(child_of).candidate(CHILD, child_of).lineage == Lineage(7, 2, 1, budget=400.0)


def test_without_a_parent_or_its_weights_it_is_the_base_model(child_of: Context) -> None:
    orphan = child_of.for_trial(9, Parent(7, "gone", Lineage(4, 2, 1)))
    for context in (child_of.for_trial(9, None), orphan):
        candidate = Inherited.of(context).candidate(CHILD, context)
        assert candidate.lineage == Lineage(0)
        check_equal(candidate.model.state_dict(), Cut().candidate(CHILD, context).model.state_dict())


def test_a_damaged_parent_is_told(child_of: Context) -> None:
    assert child_of.parent is not None
    file = child_of.checkpoints.folder / f"{child_of.parent.checkpoint}.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match="damaged"):
        Inherited.of(child_of).candidate(CHILD, child_of)


def test_each_call_gives_a_new_full_size_copy(child_of: Context) -> None:
    first, second = full_size(child_of), full_size(child_of)
    assert first.architecture == PARENT
    assert first.model is not second.model
    assert first.model.num_parameters() == child_of.base_model.num_parameters()


def test_the_same_genotype_from_the_same_parent_is_the_same_work() -> None:
    params = {"layer_0": 1, "layer_1": 0, "heads_1": 2}
    no_parent, base, other = Inherited(None, 0), Inherited(0, 0), Inherited(3, 0)
    assert no_parent.work(params) == base.work(params)  # the base trial is no parent
    assert other.work(params) != base.work(params)
    assert other.work(params) == Inherited(3, 0).work({**params, "heads_1": 0})
    assert other.work(params) != other.work({**params, "layer_1": 1})
    assert Inherited(3, 3).work(params) == no_parent.work(params)
    assert Inherited.needs_parents


def test_its_parent_is_that_of_the_trial_under_way(child_of: Context) -> None:
    assert Inherited.of(child_of) == Inherited(7, 0)
    assert Inherited.of(child_of.for_trial(9, None)) == Inherited(None, 0)
    assert Inherited.of(replace(child_of, base=None, parent=None)) == Inherited(None, None)


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
