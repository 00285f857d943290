"""The efficiency loss of AdaBERT (METHODS.md, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.architecture.cells import all_operation_flops, all_operation_parameters


def efficiency(theta: Tensor, hidden_size: int) -> Tensor:
    """`L_eff` of AdaBERT: expected FLOPs and parameters, each as part of the costliest operation's, over the cells.

    Embedding and classifier do not count.

    Args:
        theta: probabilities of the operations, (cells, 7), ordered as :data:`nasopt.architecture.cells.OPERATIONS`.
        hidden_size: width of the cells.

    Returns:
        A number from 0 (skips and pools alone) to 2 (the widest convolution in every cell).
    """
    flops, parameters = all_operation_flops(hidden_size), all_operation_parameters(hidden_size)
    costs = torch.as_tensor(flops / flops.max() + parameters / parameters.max(), dtype=theta.dtype, device=theta.device)
    return (theta @ costs).mean()
