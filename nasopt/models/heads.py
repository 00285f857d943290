"""Changes of classification heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from nasopt.errors import UnsupportedModelError
from nasopt.models.example_inputs import fixed_batch

TOLERANCE = 1e-5
"""Products with rows in another order may be rounded otherwise."""


def reorder_head(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Puts the outputs of a classifier into another order, by the rows of its last linear layer; in place.

    Args:
        model: a classifier, in eval mode.
        order: for each output the place that it has now, shape (outputs,).

    Raises:
        UnsupportedModelError: its head does not end in a linear layer.
    """
    encoder = f"{model.base_model_prefix}."
    linears = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(encoder)
    ]
    batch, places = fixed_batch(model), torch.tensor(order)
    with torch.inference_mode():
        before = model(**batch).logits
    if linears and linears[-1].out_features == len(order):
        with torch.no_grad():
            for parameter in linears[-1].parameters():
                parameter.copy_(parameter[places].clone())
    with torch.inference_mode():
        after = model(**batch).logits
    if not torch.allclose(after, before[:, places], atol=TOLERANCE, rtol=TOLERANCE):
        raise UnsupportedModelError(
            f"the head of a {type(model).__name__} does not end in a linear layer, so its labels cannot be put into "
            "the study's order"
        )
