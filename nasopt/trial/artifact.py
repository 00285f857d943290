"""The artifact of a candidate: the very model that is evaluated, measured and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.methods.base import Quantizer
from nasopt.training.candidate import Candidate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def make_artifact(candidate: Candidate, device: torch.device, quantizer: Quantizer | None) -> PreTrainedModel:
    """A copy of the candidate in its precision, on `device`, in eval mode.

    Args:
        candidate: fp32.
        device: where it is going to run.
        quantizer: the user's own function; ours if None.

    Raises:
        NasoptError: the model that the user's function gave cannot be stored.
    """
    from nasopt.models.quantization import check_storable, quantize

    precision = candidate.architecture.precision
    if quantizer is None:
        return quantize(candidate.model, precision, device)
    model = quantizer(candidate.model, precision)
    check_storable(model, precision)
    quantized: PreTrainedModel = model.to(device).eval()
    return quantized
