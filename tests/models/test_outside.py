"""What models that were made elsewhere consist of."""

from __future__ import annotations

import pytest
import torch
from transformers import AlbertConfig, AlbertModel, XLMRobertaConfig, XLMRobertaModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.outside import OutsideModel
from nasopt.export.folder import export_config
from nasopt.models.families import FAMILIES, max_positions
from nasopt.models.modeling_nasopt import NasoptBertForSequenceClassification
from nasopt.models.outside import outside_architecture
from nasopt.models.surgery import cut

ORIGIN = OutsideModel("somewhere")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layers_of_every_family_are_counted(make_model, name):
    found = outside_architecture(make_model(name, hidden=32, layers=3, heads=4, ffn=128), ORIGIN)
    assert found.layers == ((4, 128),) * 3
    assert (found.model_type, found.hidden_size, found.head_size, found.model) == (name, 32, 8, ORIGIN)


def test_a_model_that_nasopt_cut_has_layers_of_its_own_sizes(make_model):
    kept = (KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((), ()))
    smaller = cut(make_model("bert"), Architecture(kept))
    loaded = NasoptBertForSequenceClassification(export_config(smaller))
    for model in (smaller, loaded):
        found = outside_architecture(model, ORIGIN)
        assert (found.model_type, found.layers) == ("bert", ((2, 64), (0, 0)))


def test_of_other_models_the_type_is_known():
    config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    found = outside_architecture(AlbertModel(config), ORIGIN)
    assert (found.model_type, found.layers, found.hidden_size) == ("albert", (), 16)


def test_a_type_that_counts_positions_as_roberta_does_reads_as_many_tokens():
    config = XLMRobertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    longest = max_positions(config)
    model = XLMRobertaModel(config)
    with torch.inference_mode():
        model(torch.full((1, longest), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, longest + 1), 5))
    assert max_positions(AlbertConfig(max_position_embeddings=512)) == 512
