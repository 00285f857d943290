"""New encoder-decoders and their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoTokenizer

from nasopt.config.task import NEW_MODEL_TYPES, NewModelConfig
from nasopt.models.families import encoder_shape
from nasopt.tasks.new_model import END, PADDING, SPECIAL, new_config, new_model, train_tokenizer

SETTINGS = NewModelConfig(
    encoder_layers=1, decoder_layers=2, hidden_size=16, heads=2, ffn_size=32, vocabulary=120, dropout=0.0
)
TEXTS = [f"открыть файл {word} open the file {word}" for word in ("меню", "window", "окно", "menu", "печать", "print")]


@pytest.mark.parametrize("model_type", NEW_MODEL_TYPES)
def test_a_new_model_has_the_sizes_asked_for_and_learns(model_type: str) -> None:
    torch.manual_seed(0)
    model = new_model(new_config(model_type, SETTINGS, 32))
    shape = encoder_shape(model.config)
    assert (shape.num_layers, shape.num_heads, shape.ffn_size, shape.hidden_size) == (2, 2, 32, 16)
    assert model.get_input_embeddings().weight.shape == (120, 16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    source = torch.randint(4, 120, (8, 6))
    labels = torch.cat([source, torch.full((8, 1), SPECIAL.index(END))], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = model(input_ids=source, attention_mask=torch.ones_like(source), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_trained_tokenizer_reads_back_the_same_and_gives_texts_back(
    kind: Literal["bpe", "unigram"], tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(TEXTS, 120, kind, 32)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3]
    assert tokenizer.pad_token == PADDING
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert ids[-1] == SPECIAL.index(END)
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXTS[0]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_byte_pairs_are_merged_the_same_way_every_time() -> None:
    first, second = (train_tokenizer(TEXTS, 120, "bpe", 32) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"hidden_size \(30\) must be a multiple of twice heads \(4\)"):
        NewModelConfig(hidden_size=30, heads=4)
