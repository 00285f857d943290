"""Modules for architectures of every kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from nasopt.architecture.base import Precision
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.building import build
from nasopt.models.families import encoder_shape
from nasopt.models.surgery import layer_counts


@pytest.fixture
def base() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def test_an_encoder_is_cut_out_of_the_base_model(base: PreTrainedModel) -> None:
    architecture = Architecture((KeptUnits((1, 2), tuple(range(64))), None, KeptUnits((3,), tuple(range(128)))))
    name = "bert.encoder.layer.{}.attention.self.query.weight"
    wanted = base.get_parameter(name.format(0))[4:12].clone()
    model = build(architecture, copy.deepcopy(base))
    assert layer_counts(model) == ([2, 1], [64, 128])
    assert torch.equal(model.get_parameter(name.format(0)), wanted)


def test_cells_read_the_base_models_tokens_and_give_its_classes(base: PreTrainedModel) -> None:
    model = build(CellArchitecture(("conv3", "skip"), 8, embedding_rank=4), base)
    assert model.config.vocab_size == 50
    assert model.eval()(torch.tensor([[1, 2, 3]])).logits.shape == (1, 2)
    assert len(model.adabert.cells) == 1  # a skipped cell is no module


@dataclass(frozen=True)
class FirstLayer:
    """An architecture of another package."""

    precision: Precision = "fp32"

    def build(self, base_model: PreTrainedModel) -> PreTrainedModel:
        return build(Architecture.masked(encoder_shape(base_model.config), [1, 0, 0]), base_model)


def test_an_architecture_of_another_package_builds_itself(base: PreTrainedModel) -> None:
    model = build(FirstLayer(), base)  # type: ignore[arg-type]
    assert model.config.num_hidden_layers == 1


def test_what_nobody_can_build_is_named(base: PreTrainedModel) -> None:
    with pytest.raises(TypeError, match="type int has no `build"):
        build(3, base)  # type: ignore[arg-type]
