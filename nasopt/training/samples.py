"""Samples of a split, on which things are estimated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.tasks.batches import Examples, training_batches


@dataclass(frozen=True)
class SampleSettings:
    """On what something is estimated.

    Attributes:
        examples: of the training split, drawn at random; all there are if it has fewer.
        batch_size: examples of one batch.
        seed: of the draw.
    """

    examples: int
    batch_size: int
    seed: int

    def batches(self, split: Examples) -> list[Tensor]:
        """Positions in the split, in batches of about equal length."""
        generator = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(len(split), generator=generator)[: self.examples]
        return [sample[batch] for batch in training_batches(split.lengths[sample], self.batch_size, generator)]
