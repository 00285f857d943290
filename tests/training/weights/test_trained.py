"""Weights that are trained after another source has given them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt.architecture.encoder import Architecture
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.training.loop import LossFunction
from nasopt.training.weights import Cut, Inherited, Stage, Trained

STEPS = 10
"""The steps of one epoch: 160 texts in batches of 16."""


def trained(context: Context, *stages: Stage) -> Candidate:
    return Trained(Cut(), stages).candidate(Architecture.masked(context.shape, [1, 0, 1]), context)


def distance(one: Candidate, other: Candidate) -> float:
    theirs = other.model.to("cpu").state_dict()
    squares: Sequence[Tensor] = [
        (tensor - theirs[name]).square().sum() for name, tensor in one.model.to("cpu").state_dict().items()
    ]
    return math.sqrt(float(torch.stack([square.float() for square in squares]).sum()))


def shrink(context: Context) -> LossFunction:
    """A loss that knows no data: it pulls the classifier's bias to 5."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model.get_parameter("classifier.bias") - 5.0).square().sum()

    return loss


def test_the_epochs_of_each_stage_join_the_line(context: Context) -> None:
    candidate = trained(context, Stage("finetune", 1, seed=0), Stage("distill", 2, seed=0, loss=shrink))
    line = candidate.lineage
    assert replace(line, budget=0.0) == Lineage(None, finetune_epochs=1, distill_epochs=2)
    # 3 epochs of 160 texts, by two of three layers and the head
    assert line.budget == pytest.approx(3 * context.epoch_cost(candidate.architecture))
    assert 0.6 < line.budget / (3 * 160) < 0.75
    assert candidate.training["steps"] == 3 * STEPS
    assert candidate.training["seconds"] > 0
    assert candidate.training["tokens"] == 3 * trained(context, Stage("finetune", 1, seed=0)).training["tokens"]


def test_no_epochs_are_no_training(context: Context) -> None:
    plain, candidate = trained(context), trained(context, Stage("finetune", 0, seed=0))
    assert distance(plain, candidate) == 0.0
    assert (candidate.lineage, candidate.training) == (Lineage(None), {})


def test_equal_seeds_give_equal_weights(context: Context) -> None:
    first, again, other = (trained(context, Stage("finetune", 1, seed)) for seed in (1, 1, 2))
    assert distance(first, again) == 0.0
    assert distance(first, other) > 0.0


def test_a_stage_minimises_its_own_loss_at_its_own_rate(context: Context) -> None:
    def bias(rate: float | None) -> float:
        model = trained(context, Stage("distill", 1, 0, shrink, rate)).model
        return float(model.get_parameter("classifier.bias").detach().mean())

    start = float(trained(context).model.get_parameter("classifier.bias").detach().mean())
    moves = [bias(rate) - start for rate in (None, 1e-3, 1e-2)]
    assert moves[0] == moves[1]  # the study's learning rate
    assert moves[2] > 5 * moves[1] > 0


def test_the_context_tells_of_the_steps(context: Context) -> None:
    told: list[tuple[str, int, int]] = []
    context.on_phase = lambda *phase: told.append(phase)
    trained(context, Stage("finetune", 1, seed=0))
    assert [phase for phase in told if phase[0] == "training"] == [
        ("training", step, STEPS) for step in range(1, STEPS + 1)
    ]


def test_the_same_work_is_what_the_start_says() -> None:
    params, stage = {"layer_0": 1}, Stage("finetune", 1, seed=0)
    assert Trained(Cut(), [stage]).work(params) == Cut().work(params)
    assert Trained(Inherited(3, 0), [stage]).work(params) == Inherited(3, 0).work(params)
