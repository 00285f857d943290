"""The cost of a pass through a model, so that controls get the budget of the models they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from nasopt.measurement.measured.flops import count_flops
from nasopt.tasks.batches import Examples

Run: TypeAlias = Callable[[nn.Module, Any], Any]
"""(model, batch) -> its outputs."""

EXAMPLES = 8
"""The number of examples in the batch that is counted; they are the same for every model."""


class _Pass(nn.Module):
    """A model's pass over a batch, as a module whose input is the batch."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__()
        self.model, self._run = model, run

    def forward(self, batch: Any) -> None:
        self._run(self.model, batch)


def pass_flops(model: nn.Module, split: Examples, run: Run) -> int:
    """FLOPs of one forward pass over the first examples of a split, where the model is; a multiply-add is 2.

    Args:
        model: any module that `run` can call; it stays in its mode.
        split: tokens as the model reads them; its first B examples of T tokens make one batch, inputs (B, T).
        run: makes one pass over that batch.
    """
    device = next(model.parameters()).device
    batch = split.batch(torch.arange(min(EXAMPLES, len(split)))).to(device)
    return count_flops(_Pass(model, run), {"batch": batch})
