"""Fisher information of gates on heads and neurons: the expected cost of removing each (METHODS.md, section 6).

``I_u = mean_n (dL_n / dm_u)^2`` for a gate ``m_u = 1`` on the unit u and the loss ``L_n`` of the example n (Kwon et al.
2022, "A fast post-training pruning framework for transformers", section 3.2). At a trained model the mean derivative is
about zero, so the expected change of the loss is second order, and this is the diagonal of its curvature.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.architecture.genotype import FFN_STEP
from nasopt.models.saliency import LossOfBatch, Saliency
from nasopt.models.sensitivity.gates import gate_gradients, unit_blocks
from nasopt.models.sensitivity.values import BlockSensitivity, Sensitivity

COUPLING = 1.5
"""The exponent of a block's error where its units count jointly: 1 would be right if they were independent, 2 if all of
them changed the outputs in one direction, because their derivatives add up then, and not the squares. Between the two
it was chosen by measuring (benchmarks/results/sensitivity.md)."""


def fisher_information(
    model: PreTrainedModel,
    batches: Iterable[Any],
    loss_function: LossOfBatch,
    *,
    device: torch.device | None = None,
) -> Saliency:
    """The Fisher information of every head and neuron of a full or cut encoder.

    The model comes back in eval mode, on `device`, otherwise unchanged. One backward pass a batch serves all examples.

    Args:
        model: a trained model of a supported family.
        batches: the batches that `loss_function` takes; row n of each tensor is the example n.
        loss_function: the task's loss, a *mean* over the examples of the batch (derivatives are multiplied by their
            number, so that they are those of each example's own loss).
        device: the device to run on; the model's, if None.

    Returns:
        The values of each layer, float64, on the CPU.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
        ValueError: there is no batch, or a gradient is not finite.
    """
    model.to(device or model.device).eval()
    layers = unit_blocks(model)
    totals = [[torch.zeros(block.count, dtype=torch.float64) for block in layer] for layer in layers]
    if not any(block.count for layer in layers for block in layer):
        return _saliency(totals)
    examples = 0
    with gate_gradients(model) as gradients:
        for batch in batches:
            loss_function(model, batch).backward()  # type: ignore[no-untyped-call]
            found = gradients.take()
            size = max(len(rows) for pair in found for rows in pair)
            examples += size
            for sums, pair in zip(totals, found, strict=True):
                for total, rows in zip(sums, pair, strict=True):
                    total += (rows.double() * size).square().sum(dim=0).cpu()
    if examples == 0:
        raise ValueError("the Fisher information needs at least one batch")
    values = [[total / examples for total in sums] for sums in totals]
    if not all(bool(torch.isfinite(item).all()) for sums in values for item in sums):
        raise ValueError("a gradient is not finite: the Fisher information cannot be told")
    return _saliency(values)


def random_projection(vectors: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """`<r_n, v_n>` for the vectors v_n of each example and random directions r_n ~ N(0, I), a mean over the examples.

    The squared derivative of an example by a gate m has the expectation ``||dv_n / dm||^2`` (Hutchinson 1990), which is
    the curvature of ``||v_n(m) - v_n||^2 / 2``: the Fisher information of the distance to the vectors of the model
    itself, whose first derivatives are all zero there. Several vectors of one example add up; their directions are
    independent, so that mixed terms have the expectation 0.

    Args:
        vectors: of each example, (batch, hidden) each.
        generator: of the directions, on the CPU.

    Returns:
        A scalar of shape ().
    """
    products = [(rows * torch.randn(rows.shape, generator=generator).to(rows)).sum(dim=-1).mean() for rows in vectors]
    return torch.stack(products).sum()


def _saliency(values: list[list[Tensor]]) -> Saliency:
    return Saliency(tuple(heads for heads, _ in values), tuple(neurons for _, neurons in values))


def order_by_fisher(information: Saliency, coupling: float = 1.0) -> Sensitivity:
    """The units of every block, most important first; neurons go in blocks of :data:`FFN_STEP`.

    Args:
        information: the values of each layer's units.
        coupling: ``E(k)`` is the share of the block's values that are gone, to this power; 1 adds them up.
    """
    return Sensitivity(
        tuple(_ordered(values, 1, coupling) for values in information.heads),
        tuple(_ordered(values, FFN_STEP, coupling) for values in information.neurons),
    )


def _ordered(values: Tensor, step: int, coupling: float) -> BlockSensitivity:
    order = values.argsort(descending=True, stable=True)
    units = torch.stack([part.sum() for part in torch.split(values[order], step)]) if len(values) else values
    gone = units.flip(0).cumsum(0).flip(0)  # sums of the values from each unit on
    total = float(gone[0]) if len(gone) else 0.0
    shares = [(float(value) / total) ** coupling if total > 0 else 0.0 for value in gone]
    return BlockSensitivity(tuple(order.tolist()), step, tuple(units.tolist()), (*shares, 0.0))
