"""The outputs of models, whatever their heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logits_of(outputs: Any) -> Tensor | None:
    """The logits of texts, (batch, outputs), or of tokens, (batch, tokens, outputs); None without a head.

    A model that finds answers has two outputs for each token: the logits of being an answer's first and last one.
    """
    start = getattr(outputs, "start_logits", None)
    if start is not None:
        return torch.stack([start, outputs.end_logits], dim=-1)
    found: Tensor | None = getattr(outputs, "logits", None)
    return found


def main_output(outputs: Any) -> Tensor:
    """The output that two models are compared by: logits or, without a head, hidden states (batch, tokens, hidden)."""
    logits = logits_of(outputs)
    found: Tensor = outputs.last_hidden_state if logits is None else logits
    return found
