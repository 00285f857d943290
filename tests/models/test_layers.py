from __future__ import annotations

import copy

import pytest
import torch
from decoders import BART_LIKE, POST_NORM, PRE_NORM, T5_LIKE, make_decoder, pairs
from torch import nn
from transformers import T5Config

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.errors import UnsupportedModelError
from nasopt.models.counts import count_parameters
from nasopt.models.families import encoder_family_of, encoder_shape, family_of, max_positions
from nasopt.models.layers import partition
from nasopt.models.surgery import cut, expand, layer_counts

EVERY = [*BART_LIKE, *T5_LIKE]


def _mask(model, *removed):
    shape = encoder_shape(model.config)
    return Architecture.masked(shape, [int(layer not in removed) for layer in range(shape.num_layers)])


def _logits(model):
    with torch.inference_mode():
        return model(**pairs()).logits


def _zeroed(model, layer):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name in partition(model, layer).zeroed:
            model.get_parameter(name).zero_()
    return model


@pytest.mark.parametrize("name", EVERY)
def test_decoders_are_found_and_counted(name):
    model = make_decoder(name)
    family = family_of(model)
    assert family.is_encoder_decoder
    assert family.is_pre_norm == (name in PRE_NORM)
    assert encoder_shape(model.config) == EncoderShape(num_layers=3, num_heads=4, ffn_size=48, hidden_size=32)
    assert max_positions(model.config) == (512 if name in T5_LIKE else 40)
    assert layer_counts(model) == ([4] * 3, [48] * 3)
    with pytest.raises(UnsupportedModelError, match=r"has a decoder"):
        encoder_family_of(model)
    counts, target = count_parameters(model), _mask(model, 0)
    assert counts.of(target) == sum(tensor.numel() for tensor in cut(model, target).parameters())


@pytest.mark.parametrize("name", EVERY)
def test_every_weight_of_a_layer_is_zeroed_or_removed(name):
    model = make_decoder(name)
    for layer in (0, 1):
        split = partition(model, layer)
        assert sorted((*split.zeroed, *split.removed, *split.kept)) == sorted(dict(model.named_parameters()))
        assert len(split.zeroed) == (3 if name in T5_LIKE else 6)
        prefix = f"decoder.{'block' if name in T5_LIKE else 'layers'}.{layer}."
        assert all(prefix in item for item in (*split.zeroed, *split.removed))
        assert all("relative_attention_bias" in item for item in split.kept if prefix in item)


@pytest.mark.parametrize("removed", [(0,), (1,), (0, 2)])
@pytest.mark.parametrize("name", PRE_NORM)
def test_a_pre_norm_layer_that_writes_zeros_is_as_good_as_none(name, removed):
    model = make_decoder(name)
    zeroed = model
    for layer in removed:
        zeroed = _zeroed(zeroed, layer)
    student = cut(copy.deepcopy(model), _mask(model, *removed))
    assert float((_logits(zeroed) - _logits(student)).abs().max()) < 1e-5  # fp32; of logits of some 10
    double = float((_logits(zeroed.double()) - _logits(student.double())).abs().max())
    assert double < 1e-6
    assert float((_logits(model.double()) - _logits(student)).abs().max()) > 1e-2


@pytest.mark.parametrize("name", POST_NORM)
def test_a_post_norm_layer_that_writes_zeros_is_its_layer_norms(name):
    """The gap that removing the layer altogether leaves, and that its LayerNorms close."""
    model = make_decoder(name).double()
    zeroed, student = _zeroed(model, 1), cut(copy.deepcopy(model), _mask(model, 1))
    assert float((_logits(zeroed) - _logits(student)).abs().max()) > 0.05
    with_norms = copy.deepcopy(model)
    layers = with_norms.get_decoder().layers
    layers[1] = _Norms(layers[1])
    assert float((_logits(zeroed) - _logits(with_norms)).abs().max()) < 1e-6


class _Norms(nn.Module):
    """A layer as its LayerNorms alone: exact, but no plain Hugging Face shape, so that no study makes it."""

    def __init__(self, layer):
        super().__init__()
        norms = (layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)
        self.norms = nn.Sequential(*norms)

    def forward(self, hidden_states, *args, **kwargs):
        return self.norms(hidden_states)


@pytest.mark.parametrize("name", EVERY)
def test_cut_decoders_generate_with_a_cache_and_are_standard_shapes(name, tmp_path):
    model = make_decoder(name)
    base = copy.deepcopy(model)
    student = cut(model, _mask(model, 0))
    inputs = {key: value for key, value in pairs().items() if key != "decoder_input_ids"}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 2, "do_sample": False}
    cached = student.generate(**inputs, **options, use_cache=True)
    assert torch.equal(cached, student.generate(**inputs, **options, use_cache=False))
    student.save_pretrained(tmp_path)
    read, report = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert len(family_of(read).parts.encoder_layers(read)) == 2
    torch.testing.assert_close(_logits(read), _logits(student))

    full = expand(base, student.state_dict(), _mask(base, 0))
    torch.testing.assert_close(_logits(full), _logits(base))
    torch.testing.assert_close(_logits(cut(full, _mask(base, 0))), _logits(student), rtol=0, atol=0)


def test_parts_of_decoder_layers_and_unknown_layers_are_refused():
    model = make_decoder("mbart")
    shape = encoder_shape(model.config)
    full = Architecture.full(EncoderShape(3, 2, 48, 32))
    with pytest.raises(UnsupportedModelError, match=r"layer 0 would lose heads.*only be removed whole"):
        cut(model, full, Architecture.full(shape))
    with pytest.raises(IndexError, match="layer 3: the model has the layers 0 to 2"):
        partition(model, 3)
    layer = family_of(model).parts.encoder_layers(model)[1]
    del layer.encoder_attn
    with pytest.raises(UnsupportedModelError, match=r"layer 1 .*`encoder_attn.out_proj`"):
        partition(model, 1)
    with pytest.raises(UnsupportedModelError, match="'t5'"):
        family_of(T5Config(is_encoder_decoder=False))
    assert partition(make_decoder("t5"), 0).zeroed


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"])
def test_encoder_layers_have_two_output_projections(make_model, name):
    model = make_model(name)
    split = partition(model, 1)
    assert len(split.zeroed) == (2 if name == "modernbert" else 4)
    assert sorted((*split.zeroed, *split.removed, *split.kept)) == sorted(dict(model.named_parameters()))
    if family_of(model).is_pre_norm:
        inputs = {"input_ids": torch.randint(5, 100, (2, 6), generator=torch.Generator().manual_seed(0))}
        with torch.inference_mode():
            student = cut(copy.deepcopy(model), _mask(model, 1))
            torch.testing.assert_close(_zeroed(model, 1)(**inputs).logits, student(**inputs).logits)
