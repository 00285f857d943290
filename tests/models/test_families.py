from __future__ import annotations

import pytest
import torch
from transformers import AlbertConfig, BertConfig, DebertaConfig, DebertaV2Config, DistilBertConfig, GPT2Config

from nasopt.architecture.base import EncoderShape
from nasopt.errors import UnsupportedModelError
from nasopt.models.families import FAMILIES, REFUSED, encoder_shape, family_of, max_positions
from nasopt.models.modeling_nasopt import NasoptBertConfig


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"])
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
    with pytest.raises(UnsupportedModelError, match=rf"'gpt2'.*{', '.join(FAMILIES)}"):
        family_of(GPT2Config())


def test_encoders_that_cannot_be_cut_are_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match=r"'albert'.*one layer repeated.*supported types: bert, ") as caught:
        family_of(AlbertConfig())
    assert "\n" not in str(caught.value)
    assert not REFUSED.keys() & FAMILIES.keys()


def test_debertas_that_cannot_be_cut_are_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match=r"'deberta-v2' model cannot be cut: it has a convolution"):
        family_of(DebertaV2Config(conv_kernel_size=3))
    with pytest.raises(UnsupportedModelError, match=r"not of the size .*\(64\)"):
        family_of(DebertaV2Config(attention_head_size=32))
    assert family_of(DebertaV2Config(conv_kernel_size=0, attention_head_size=64)).model_type == "deberta-v2"
    with pytest.raises(UnsupportedModelError, match=r"'deberta'.*interleaved"):
        family_of(DebertaConfig())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_longest_text_is_one_that_the_model_reads(make_model, name):
    model = make_model(name)
    longest = max_positions(model.config)
    with torch.inference_mode():
        model(torch.full((1, longest), 5))
        if getattr(model.base_model.embeddings, "position_embeddings", None) is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, longest + 1), 5))


@pytest.mark.parametrize("option", ["is_decoder", "add_cross_attention"])
def test_decoders_are_refused(option):
    with pytest.raises(UnsupportedModelError, match=option):
        family_of(BertConfig(**{option: True}))


def test_a_model_that_was_cut_is_refused_as_base():
    with pytest.raises(UnsupportedModelError, match="already cut by nasopt"):
        encoder_shape(NasoptBertConfig())


def test_distilbert_sizes_are_read_by_their_own_names():
    assert encoder_shape(DistilBertConfig()) == EncoderShape(6, 12, 3072, 768)
