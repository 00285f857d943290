"""The artifact of a candidate: a copy in its precision, ours or the user's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from nasopt.architecture.base import Precision
from nasopt.architecture.encoder import Architecture
from nasopt.errors import NasoptError
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.trial.artifact import make_artifact

CPU = torch.device("cpu")


@pytest.fixture
def candidate(context: Context) -> Candidate:
    return Candidate(context.base_model, Architecture.full(context.shape, "bf16"), Lineage())


def test_the_candidate_itself_stays_in_fp32(candidate: Candidate) -> None:
    artifact = make_artifact(candidate, CPU, None)
    assert artifact is not candidate.model
    assert {parameter.dtype for parameter in artifact.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in candidate.model.parameters()} == {torch.float32}


def test_the_users_function_takes_the_place_of_ours(candidate: Candidate) -> None:
    asked: list[Precision] = []

    def to_half(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
        asked.append(precision)
        half: PreTrainedModel = copy.deepcopy(model).to(torch.float16)
        return half.train()

    artifact = make_artifact(candidate, CPU, to_half)
    assert asked == ["bf16"]
    assert {parameter.dtype for parameter in artifact.parameters()} == {torch.float16}
    assert not artifact.training


def test_what_cannot_be_exported_is_refused_before_it_is_measured(candidate: Candidate) -> None:
    with pytest.raises(NasoptError, match="must return a transformers model, but returned Linear"):
        make_artifact(candidate, CPU, lambda model, precision: nn.Linear(2, 2))  # type: ignore[arg-type, return-value]
