"""The weights that are counted beforehand are those of the model that is cut."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.models.counts import count_parameters
from nasopt.models.surgery import cut


def test_counts_are_those_of_the_cut_model(make_model: Callable[..., torch.nn.Module]) -> None:
    for family in ("bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"):
        model = make_model(family)
        shape = EncoderShape(3, 4, 128, 32)
        counts = count_parameters(model)
        for mask in ((1, 1, 1), (1, 0, 1), (0, 1, 0)):
            architecture = Architecture.masked(shape, mask)
            small = model if all(mask) else cut(make_model(family), architecture)
            assert counts.of(architecture) == sum(parameter.numel() for parameter in small.parameters()), family
        assert counts.smallest == min(
            counts.of(Architecture.masked(shape, mask)) for mask in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        )
