"""BERT whose output is the average of its embeddings and of the hidden states after each layer.

This file is copied into every exported folder and stands alone: it imports torch and transformers only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertEncoder


class LayerMeanConfig(BertConfig):
    """As BERT's."""

    model_type = "layer-mean-bert"


class LayerMeanEncoder(BertEncoder):
    """BERT's layers, and the average of what they read and write."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """(batch, tokens, hidden size) -> the same, in `last_hidden_state`."""
        total = hidden_states
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask)
            total = total + hidden_states
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=total / (len(self.layer) + 1))


class LayerMeanModel(BertModel):
    """Without a classifier."""

    config_class = LayerMeanConfig

    def __init__(self, config: LayerMeanConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer)
        self.encoder = LayerMeanEncoder(config)
        self.post_init()


class LayerMeanForSequenceClassification(BertForSequenceClassification):
    """With BERT's pooler and classifier."""

    config_class = LayerMeanConfig

    def __init__(self, config: LayerMeanConfig) -> None:
        super().__init__(config)
        self.bert = LayerMeanModel(config)
        self.post_init()


MODELS = {LayerMeanConfig: (LayerMeanModel, LayerMeanForSequenceClassification)}
