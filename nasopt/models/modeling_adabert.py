"""Small convolutional text classifiers, found by differentiable search (AdaBERT).

Embedding -> a chain of cells with one operation each -> mean over the real tokens -> linear classifier. After Chen et
al. 2020, "AdaBERT: Task-Adaptive BERT Compression with Differentiable Neural Architecture Search". No operation lets
padding into real tokens.

Shapes: B texts, T tokens (padding included), H hidden units.

This file is copied into every exported folder that needs it and stands alone: it imports torch and transformers only.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

CONVOLUTIONS = {"conv1": (1, 1), "conv3": (3, 1), "conv5": (5, 1), "dilconv3": (3, 2)}
"""The kernel size and the dilation over the token axis, by operation."""
POOLS = ("maxpool", "avgpool")


class AdaBertConfig(PretrainedConfig):
    """The configuration of a frozen student.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: H, the width of all cells.
        embedding_rank: r of an embedding stored as two matrices, vocab_size x r and r x H; None for one matrix.
        cells: the operation of each cell; without any the model is a bag of embeddings.
        pad_token_id: the id of the tokenizer's padding token.
        max_position_embeddings: the longest text the model was made for. It has no positions, and reads any length.
        kwargs: `num_labels` and all other values of transformers' configurations.

    Raises:
        ValueError: an operation does not exist.
    """

    model_type = "nasopt-adabert"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 256,
        embedding_rank: int | None = None,
        cells: Sequence[str] = (),
        pad_token_id: int | None = 0,
        max_position_embeddings: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        unknown = [name for name in cells if name not in (*CONVOLUTIONS, *POOLS)]
        if unknown:
            raise ValueError(f"a cell cannot be {unknown[0]!r}; it is one of {', '.join((*CONVOLUTIONS, *POOLS))}")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.embedding_rank = embedding_rank
        self.cells = list(cells)
        self.max_position_embeddings = max_position_embeddings


class Convolution(nn.Module):
    """1-D convolution over the tokens, ReLU, LayerNorm; zeros stand for padding and beyond the ends.

    AdaBERT's order is ReLU, convolution, BatchNorm. Here the ReLU comes after the convolution, because a mean and a
    linear map follow the last cell, and a convolution without a nonlinearity after it would be averaged to a bag of
    words. LayerNorm stands for BatchNorm because the latter's statistics would take in padding and depend on the batch.
    """

    def __init__(self, hidden_size: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            hidden_size, hidden_size, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Maps (B, T, H) to (B, T, H); `real`, (B, T, 1), is 1 for tokens and 0 for padding, in `hidden`'s dtype."""
        # NOTE: a transposed view copies nothing. In fp32, 8 x 64 tokens, one AVX512 thread, this took 0.30 ms at 128
        # units and kernel 3 (unfold + linear 0.50, a product per tap 0.54), and 1.1 ms (2.0, 2.1) at 256 units.
        mixed = self.convolution((hidden * real).transpose(1, 2)).transpose(1, 2)  # (B, T, H)
        normed: Tensor = self.norm(functional.relu(mixed))
        return normed


class MaxPool(nn.Module):
    """The largest of a token and its two neighbours, by hidden unit; padding does not take part."""

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """See :meth:`Convolution.forward`. The result is 0 at padding."""
        lowest = torch.finfo(hidden.dtype).min
        before, here, after = _neighbours(hidden.masked_fill(real == 0, lowest), lowest)
        return torch.maximum(torch.maximum(before, here), after) * real


class AveragePool(nn.Module):
    """The mean of a token and its two neighbours; padding does not count."""

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """See :meth:`Convolution.forward`."""
        before, here, after = _neighbours(hidden * real, 0.0)
        left, middle, right = _neighbours(real, 0.0)
        counts = (left + middle + right).clamp(min=1)  # (B, T, 1)
        return (before + here + after) / counts


class Skip(nn.Module):
    """The identity."""

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """See :meth:`Convolution.forward`."""
        return hidden


def _neighbours(values: Tensor, beyond: float) -> tuple[Tensor, Tensor, Tensor]:
    """The left neighbour of each token, the token, and its right neighbour, each of shape (B, T, ...)."""
    padded = functional.pad(values, (0, 0, 1, 1), value=beyond)
    return padded[:, :-2], values, padded[:, 2:]


def make_operation(name: str, hidden_size: int) -> nn.Module:
    """A new operation of this name."""
    if name in CONVOLUTIONS:
        return Convolution(hidden_size, *CONVOLUTIONS[name])
    return {"maxpool": MaxPool, "avgpool": AveragePool, "skip": Skip}[name]()


class AdaBertEmbeddings(nn.Module):
    """Word embeddings, from one table or from two factors, with a LayerNorm.

    The norm puts the outputs of skips and pools on one scale with those of convolutions. There are no positions.
    """

    def __init__(self, config: AdaBertConfig) -> None:
        super().__init__()
        rank = config.embedding_rank
        self.word_embeddings = nn.Embedding(config.vocab_size, rank or config.hidden_size)
        self.projection = nn.Linear(rank, config.hidden_size, bias=False) if rank else nn.Identity()
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Maps token ids (B, T) to embeddings (B, T, H)."""
        embedded: Tensor = self.norm(self.projection(self.word_embeddings(input_ids)))
        return embedded


def token_weights(mask: Tensor, hidden: Tensor) -> Tensor:
    """An attention mask (B, T) as operations take it: (B, T, 1), in the dtype of `hidden`."""
    return mask.unsqueeze(-1).to(hidden.dtype)


def mean_over_tokens(hidden: Tensor, real: Tensor) -> Tensor:
    """The mean of the real tokens: (B, T, H) and (B, T, 1) -> (B, H)."""
    return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


class _AdaBertPreTrained(PreTrainedModel):
    config_class = AdaBertConfig
    base_model_prefix = "adabert"

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        # As in modeling_nasopt.py: transformers 5 cannot undo its conversion of bitsandbytes weights, and need not.
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})


class AdaBertModel(_AdaBertPreTrained):
    """Embedding and cells: hidden states, no classifier."""

    def __init__(self, config: AdaBertConfig) -> None:
        super().__init__(config)
        self.embeddings = AdaBertEmbeddings(config)
        self.cells = nn.ModuleList(make_operation(name, config.hidden_size) for name in config.cells)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Hidden states (B, T, H) of ids (B, T); `token_type_ids` are ignored.

        `hidden_states`, where asked for, are the embeddings and then the output of each cell.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.embeddings(input_ids)
        real = token_weights(mask, hidden)
        states = [hidden]
        for cell in self.cells:
            hidden = cell(hidden, real)
            states.append(hidden)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = BaseModelOutput(last_hidden_state=hidden, hidden_states=tuple(states) if wanted else None)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class AdaBertForSequenceClassification(_AdaBertPreTrained):
    """The mean of the last hidden states over the real tokens, and a linear classifier."""

    def __init__(self, config: AdaBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.adabert = AdaBertModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, labels) of ids (B, T); see :meth:`AdaBertModel.forward`."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        outputs = self.adabert(input_ids, mask, output_hidden_states=output_hidden_states, return_dict=True)
        hidden = outputs.last_hidden_state
        logits = self.classifier(mean_over_tokens(hidden, token_weights(mask, hidden)))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


MODELS: dict[Any, tuple[Any, Any]] = {AdaBertConfig: (AdaBertModel, AdaBertForSequenceClassification)}
CONFIGS = {config.model_type: config for config in MODELS}
