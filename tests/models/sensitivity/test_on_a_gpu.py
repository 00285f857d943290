"""Sensitivities and refits on a GPU are those of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from gpu import CUDA, needs_cuda
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.sensitivity.calibration import Grams
from nasopt.models.sensitivity.correction import correct_projections
from nasopt.models.sensitivity.fisher import fisher_information
from nasopt.models.sensitivity.gates import unit_blocks
from nasopt.models.sensitivity.obs import order_by_obs
from nasopt.models.sensitivity.values import BlockSensitivity
from nasopt.models.surgery import cut

pytestmark = needs_cuda

Inputs = dict[str, Tensor]
CPU = torch.device("cpu")
TARGET = Architecture((KeptUnits((0, 3), tuple(range(64))), None, KeptUnits((), tuple(range(0, 128, 2)))))


def batches(device: torch.device) -> list[Inputs]:
    generator = torch.Generator().manual_seed(5)
    mask = torch.ones(6, 9, dtype=torch.int64)
    mask[::2, 6:] = 0
    ids = (torch.randint(5, 100, (6, 9), generator=generator) for _ in range(6))
    return [{"input_ids": one.to(device), "attention_mask": mask.to(device)} for one in ids]


def loss(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    return functional.cross_entropy(model(**inputs).logits, inputs["input_ids"][:, 0] % 2)


def on_both(model: PreTrainedModel) -> list[tuple[PreTrainedModel, torch.device]]:
    return [(copy.deepcopy(model).to(device), device) for device in (CPU, CUDA)]


@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v2", "modernbert"])
def test_fisher_information(make_model: Callable[..., PreTrainedModel], family: str) -> None:
    ours, theirs = (
        fisher_information(model, batches(device), loss) for model, device in on_both(make_model(family).double())
    )
    for one, other in zip([*ours.heads, *ours.neurons], [*theirs.heads, *theirs.neurons], strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-5, atol=1e-12)


def test_the_order_by_the_optimal_brain_surgeon(make_model: Callable[..., PreTrainedModel]) -> None:
    orders = []
    for model, device in on_both(make_model("bert").double()):
        projection = unit_blocks(model)[1].neurons.projection
        assert projection is not None
        (gram,) = Grams(model, batches(device)).of([projection])
        start = BlockSensitivity(tuple(range(128)), 8, (1.0,) * 16, tuple(1 - i / 16 for i in range(17)))
        orders.append(order_by_obs(start, projection, gram))
    assert orders[0].order == orders[1].order
    assert orders[0].errors == pytest.approx(orders[1].errors, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_refitted_projections(make_model: Callable[..., PreTrainedModel], family: str) -> None:
    refitted = []
    for base, device in on_both(make_model(family)):
        model = cut(copy.deepcopy(base), TARGET)
        correct_projections(model, base, TARGET, Grams(base, batches(device)))
        assert {parameter.device.type for parameter in model.parameters()} == {device.type}
        refitted.append(model)
    with torch.inference_mode():
        ours, theirs = (model(**batches(device)[0]).logits for model, device in zip(refitted, (CPU, CUDA), strict=True))
    torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-3, atol=1e-3)
