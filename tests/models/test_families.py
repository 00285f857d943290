from __future__ import annotations

import pytest
from transformers import BertConfig, DistilBertConfig, GPT2Config

from nasopt.errors import UnsupportedModelError
from nasopt.models.architecture import EncoderShape
from nasopt.models.families import encoder_shape, family_of
from nasopt.models.modeling_nasopt import NasoptBertConfig


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert"])
def test_family_and_its_parts_are_found(make_model, name):
    model = make_model(name, hidden=32, layers=3, heads=4, ffn=128)
    family = family_of(model)
    assert family == family_of(model.config)
    assert family.model_type == name
    assert encoder_shape(model.config) == EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=32)
    layers = family.parts.encoder_layers(model)
    assert len(layers) == 3
    assert layers[0].get_submodule(family.parts.down).weight.shape == (32, 128)
    assert family.parts.encoder_layers(model.base_model) is layers


def test_unsupported_type_is_named_with_the_supported_ones():
    with pytest.raises(UnsupportedModelError, match=r"'gpt2'.*bert, roberta, electra, distilbert"):
        family_of(GPT2Config())


@pytest.mark.parametrize("option", ["is_decoder", "add_cross_attention"])
def test_decoders_are_refused(option):
    with pytest.raises(UnsupportedModelError, match=option):
        family_of(BertConfig(**{option: True}))


def test_a_model_that_was_cut_is_refused_as_base():
    with pytest.raises(UnsupportedModelError, match="already cut by nasopt"):
        encoder_shape(NasoptBertConfig())


def test_distilbert_sizes_are_read_by_their_own_names():
    assert encoder_shape(DistilBertConfig()) == EncoderShape(6, 12, 3072, 768)
