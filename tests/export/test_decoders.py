"""Encoder-decoders that lost decoder layers are exported as plain models of their type."""

from __future__ import annotations

import pytest
import torch
from cases import mostly_slow
from conftest import word_tokenizer
from decoders import make_decoder, pairs
from transformers import AutoModelForSeq2SeqLM

import nasopt
from nasopt.architecture.encoder import Architecture
from nasopt.export.folder import export_hf
from nasopt.models.families import encoder_shape
from nasopt.models.surgery import cut

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", mostly_slow(["m2m_100", "mbart", "t5", "bart", "marian"], ("m2m_100", "t5")))
def test_a_cut_decoder_is_read_back_by_nasopt_and_by_transformers(name, tmp_path):
    model = make_decoder(name)
    model.generation_config.forced_bos_token_id = 7
    target = Architecture.masked(encoder_shape(model.config), [0, 1, 1])
    student = cut(model, target)
    folder = export_hf(student, word_tokenizer(), target, tmp_path / "exported", card="")
    loaded, _ = nasopt.load(folder)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    assert type(plain).__module__.startswith("transformers.")
    with torch.inference_mode():
        for read in (loaded, plain):
            torch.testing.assert_close(read(**pairs()).logits, student(**pairs()).logits)
    assert plain.generation_config.forced_bos_token_id == 7
