"""Floating-point operations of one forward pass, as torch's own counter counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """FLOPs of one forward pass of `model` on `inputs`; a multiply-add is 2.

    Matrix products and convolutions count, and attention counts as the matrix products it stands for; biases,
    activations, norms and poolings do not.
    """
    # NOTE: the counter looks for the history of what modules return, and the parameter that an emptied block returns
    # has none. Attention runs as plain matrix products because the counter overlooks the fused kernel of CPUs.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**inputs)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops())
