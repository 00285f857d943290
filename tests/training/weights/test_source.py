"""The parts that weight sources share: the test for the same work, and rebuilding a finished trial's model."""

from __future__ import annotations

import pytest
import torch

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.building import build
from nasopt.training.context import Context
from nasopt.training.weights import WeightSource
from nasopt.training.weights.source import genotype_key

ENCODER = Architecture((KeptUnits((0, 3), tuple(range(64))), None, KeptUnits((1,), tuple(range(128)))))


def test_a_genotype_has_one_key_whatever_its_order_and_spelling() -> None:
    params = {"layer_0": 0, "heads_0": 2, "precision": "int8"}
    assert genotype_key(params) == genotype_key({"precision": "int8", "heads_0": 0, "layer_0": 0})
    assert genotype_key(params) != genotype_key({**params, "precision": "fp32"})
    assert genotype_key(params) != genotype_key({"layer_0": 0, "heads_0": 2})
    assert hash(genotype_key({"choice": [1, 2]})) == hash(genotype_key({"choice": [1, 2]}))


@pytest.mark.parametrize("architecture", [ENCODER, CellArchitecture(("conv3", "skip"), 16)], ids=["encoder", "cells"])
def test_a_model_is_restored_from_its_weights(context: Context, architecture: CandidateArchitecture) -> None:
    model = build(architecture, context.task.load_model()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    restored = WeightSource.restore(architecture, model.state_dict(), context.task.load_model())
    assert not restored.training
    ids = context.splits["validation"].batch(torch.arange(4)).inputs["input_ids"]
    with torch.inference_mode():
        assert torch.equal(restored(ids).logits, model(ids).logits)
