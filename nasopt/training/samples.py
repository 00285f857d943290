"""Samples of a split, on which things are estimated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.tasks.batches import Examples, training_batches


@dataclass(frozen=True)
class SampleSettings:
    """A random sample of a split, in batches.

    Attributes:
        examples: the number of examples that are drawn; all there are if the split has fewer.
        batch_size: examples of one batch.
        seed: decides the draw.
    """

    examples: int
    batch_size: int
    seed: int

    def batches(self, split: Examples) -> list[Tensor]:
        """Positions in the split, in batches of about equal length: int64, (B,) each, with B <= `batch_size`."""
        generator = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(len(split), generator=generator)[: self.examples]
        return [sample[batch] for batch in training_batches(split.lengths[sample], self.batch_size, generator)]
