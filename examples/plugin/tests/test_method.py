"""The method keeps to what nasopt asks of every method, and its models average what they say they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from nasopt_layer_mean.architecture import LayerMean
from transformers import BertConfig, BertForSequenceClassification

from nasopt.config.study import StudyConfig
from nasopt.study.creation import read_study_file
from nasopt.testing import MethodTestCase
from nasopt.testing.small_data import write_bert, write_labelled_texts

STUDY = """
name = "means"
method = "layer-mean"
[task]
model = "{model}"
max_length = 32
[task.dataset]
path = "{data}"
text = ["text"]
[training]
learning_rate = 1e-3
[latency]
batch_size = 2
sequence_length = 16
threads = 1
[method_options]
trials = 4
sampler = "random"
"""


class TestLayerMean(MethodTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
        folder = tmp_path_factory.mktemp("means")
        file = folder / "means.toml"
        model, data = write_bert(folder / "model"), write_labelled_texts(folder / "data")
        file.write_text(STUDY.format(model=model, data=data))
        return read_study_file(file)

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        return [{"trials": 0}, {"precisions": ["fp8"]}]


def test_the_output_is_the_average_of_the_hidden_states() -> None:
    torch.manual_seed(0)
    base = BertForSequenceClassification(
        BertConfig(vocab_size=30, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    ).eval()
    tokens = torch.randint(5, 30, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    model = LayerMean(2).build(base)
    with torch.no_grad():
        states = base.bert(tokens, mask, output_hidden_states=True).hidden_states
        expected = base.classifier(base.bert.pooler(torch.stack(states[:3]).mean(dim=0)))
        assert torch.allclose(model(tokens, mask).logits, expected, atol=1e-6)
