"""Tiny models of every family, built in code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture
def make_model() -> MakeModel:
    """(family, sizes...) -> classifier in eval mode whose every weight is random, biases and layer norms included."""

    def make(
        family: str, hidden: int = 32, layers: int = 3, heads: int = 4, ffn: int = 128, share_keys: bool = True
    ) -> PreTrainedModel:
        sizes: dict[str, Any] = {
            "vocab_size": 100,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": ffn,
            "max_position_embeddings": 40,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if family == "distilbert":
                del sizes["intermediate_size"]
                model = DistilBertForSequenceClassification(DistilBertConfig(**sizes, hidden_dim=ffn))
            elif family == "roberta":
                model = RobertaForSequenceClassification(RobertaConfig(**sizes))
            elif family == "electra":
                model = ElectraForSequenceClassification(ElectraConfig(**sizes, embedding_size=16))
            elif family == "mpnet":
                model = MPNetForSequenceClassification(MPNetConfig(**sizes))
            elif family == "deberta-v2":  # as version 3
                positions = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
                positions |= {"norm_rel_ebd": "layer_norm", "position_biased_input": False, "share_att_key": share_keys}
                model = DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, **positions))
            elif family == "modernbert":
                # A window that the test's texts are longer than, and a pattern of layers that starts with a global one.
                tokens = {f"{name}_token_id": index for index, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}
                config = ModernBertConfig(**sizes, **tokens, local_attention=4, global_attn_every_n_layers=3)
                model = ModernBertForSequenceClassification(config)
            else:
                model = BertForSequenceClassification(BertConfig(**sizes))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        return model.eval()

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three texts of up to 9 tokens; two are padded."""
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[2, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask}
