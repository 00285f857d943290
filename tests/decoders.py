"""Tiny encoder-decoders whose every weight is random, biases and layer norms included."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

BART_LIKE = {
    "mbart": "MBart",
    "m2m_100": "M2M100",
    "pegasus": "Pegasus",
    "blenderbot": "Blenderbot",
    "bart": "Bart",
    "marian": "MarianMT",
    "plbart": "PLBart",
}
T5_LIKE = {"t5": "T5", "mt5": "MT5", "longt5": "LongT5"}
PRE_NORM = ["mbart", "m2m_100", "pegasus", "blenderbot", "t5", "mt5", "longt5"]
POST_NORM = ["bart", "marian", "plbart"]


def make_decoder(name: str, layers: int = 3) -> PreTrainedModel:
    """A model with 2 encoder layers, 4 heads, FFN 48 and hidden size 32, in eval mode."""
    tokens = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    sizes: dict[str, Any]
    if name in BART_LIKE:
        prefix = BART_LIKE[name]
        sizes = {"encoder_layers": 2, "decoder_layers": layers, "d_model": 32, "max_position_embeddings": 40}
        sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        sizes |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "forced_eos_token_id": None}
        config = getattr(transformers, f"{prefix.removesuffix('MT')}Config")(vocab_size=60, **sizes, **tokens)
        head = "MarianMTModel" if name == "marian" else f"{prefix}ForConditionalGeneration"
    else:
        prefix = T5_LIKE[name]
        sizes = {"num_layers": 2, "num_decoder_layers": layers, "d_model": 32, "num_heads": 4, "d_kv": 6, "d_ff": 48}
        config = getattr(transformers, f"{prefix}Config")(vocab_size=60, **sizes, **tokens)
        head = f"{prefix}ForConditionalGeneration"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = getattr(transformers, head)(config)
        for parameter in (item for item in model.parameters() if item.requires_grad):  # Marian's sinusoids stay
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def pairs() -> dict[str, Tensor]:
    """Two pairs of texts; one source is padded."""
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(5, 60, (2, 7), generator=generator)
    mask = torch.ones_like(sources)
    mask[1, 4:] = 0
    targets = torch.randint(5, 60, (2, 5), generator=generator)
    return {"input_ids": sources, "attention_mask": mask, "decoder_input_ids": targets}
