"""Weights of another trial as they are, for a copy in another precision."""

from __future__ import annotations

import pytest
import torch

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.training.candidate import Lineage
from nasopt.training.context import Context, Parent
from nasopt.training.weights import Cut, Stored

ALL = tuple(range(128))
SHAPE = Architecture((KeptUnits((0, 3), ALL), None, KeptUnits((0, 1, 2, 3), ALL[:64])))
LINEAGE = Lineage(0, distill_epochs=2, budget=400.0)


@pytest.fixture
def parent(context: Context) -> Parent:
    """Trial 7, whose weights are the base model's plus 1."""
    model = Cut().candidate(SHAPE, context).model
    key = context.checkpoints.write({name: tensor + 1 for name, tensor in model.state_dict().items()}, SHAPE)
    return Parent(7, key, LINEAGE)


def test_the_weights_are_the_parents_and_so_is_their_training(context: Context, parent: Parent) -> None:
    candidate = Stored(parent, Cut()).candidate(SHAPE.with_precision("int8"), context)
    weights, _ = context.checkpoints.read(parent.checkpoint)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in candidate.model.state_dict().items())
    assert candidate.lineage == Lineage(7, distill_epochs=2, budget=400.0)
    assert (candidate.architecture, candidate.training) == (SHAPE.with_precision("int8"), {})
    assert not candidate.model.training


def test_what_is_gone_or_of_another_shape_is_made_again(context: Context, parent: Parent) -> None:
    other = Architecture((*SHAPE.layers[:2], None)).with_precision("int8")
    gone = Parent(7, "gone", LINEAGE)
    for source, shape in ((Stored(gone, Cut()), SHAPE), (Stored(parent, Cut()), other)):
        candidate, expected = source.candidate(shape, context), Cut().candidate(shape, context)
        assert candidate.lineage == expected.lineage
        assert all(
            torch.equal(tensor, candidate.model.state_dict()[name])
            for name, tensor in expected.model.state_dict().items()
        )


def test_it_is_the_work_of_its_precision(parent: Parent) -> None:
    params = {"latency_share": 0.5, "precision": "int8"}
    assert Stored(parent, Cut()).work(params) == Cut().work(params)
    assert Stored(parent, Cut()).work(params) != Cut().work({**params, "precision": "fp32"})
    assert Stored.needs_parents
