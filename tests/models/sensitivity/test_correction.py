"""Corrected projections of cut models of every family."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.families import FAMILIES
from nasopt.models.modeling_nasopt import LAYER_PARTS
from nasopt.models.sensitivity.calibration import Grams
from nasopt.models.sensitivity.correction import correct_projections
from nasopt.models.surgery import cut

TARGET = Architecture((KeptUnits((0, 3), tuple(range(64))), None, KeptUnits((), tuple(range(0, 128, 2)))))
FULL = KeptUnits(tuple(range(4)), tuple(range(128)))


def calibration(count: int = 8) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    mask = torch.ones(6, 9, dtype=torch.int64)
    mask[::2, 6:] = 0
    return [
        {"input_ids": torch.randint(5, 100, (6, 9), generator=generator), "attention_mask": mask} for _ in range(count)
    ]


@torch.no_grad()
def seen(model: PreTrainedModel, name: str, batches: list[dict[str, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and outputs of a module at the real tokens, (tokens, channels) each."""
    rows: list[tuple[Tensor, Tensor]] = []
    hook = model.get_submodule(name).register_forward_hook(lambda _, given, out: rows.append((given[0], out)))
    for inputs in batches:
        model(**inputs)
    hook.remove()
    masks = [inputs["attention_mask"].bool() for inputs in batches]
    read, written = (
        torch.cat([pair[side][mask] for pair, mask in zip(rows, masks, strict=True)]).double().numpy()
        for side in (0, 1)
    )
    return read, written


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(make_model: Callable[..., PreTrainedModel], family: str) -> None:
    base = make_model(family)
    model = cut(copy.deepcopy(base), TARGET)
    before = copy.deepcopy(model.state_dict())
    untouched = copy.deepcopy(base.state_dict())
    steps: list[tuple[int, int]] = []
    correct_projections(model, base, TARGET, Grams(base, calibration(2)), on_step=lambda *step: steps.append(step))
    projections = 3 if family == "modernbert" else 4  # without a bias an empty block has nothing to correct
    assert steps == [(done, projections) for done in range(1, projections + 1)]
    parts = LAYER_PARTS[family]
    writers = (parts.attention_output, parts.down)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(any(writer in name for writer in writers) for name in changed)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert all(torch.equal(value, untouched[name]) for name, value in base.state_dict().items())


def test_the_first_blocks_are_least_squares(make_model: Callable[..., PreTrainedModel]) -> None:
    """Before the first cut the two models read the same, so that the result can be seen in the smaller one."""
    base = make_model("bert")
    target = Architecture((KeptUnits((1, 2), FULL.neurons), FULL, FULL))
    model = cut(copy.deepcopy(base), target)
    given = calibration()
    name = "bert.encoder.layer.0.attention.output.dense"
    correct_projections(model, base, target, Grams(base, given))
    read, written = seen(base, name, given)
    extended = np.hstack([read, np.ones((len(read), 1))])
    eps = 1e-3 * np.diag(extended.T @ extended).mean()
    linear = base.get_submodule(name)
    weight = np.hstack([linear.weight.detach().numpy(), linear.bias.detach().numpy()[:, None]])
    kept = [*range(8, 24), 32]
    stacked = np.vstack([extended, np.sqrt(eps) * np.eye(33)])
    solution, *_ = np.linalg.lstsq(stacked[:, kept], stacked @ weight.T.astype(np.float64), rcond=None)
    found = model.get_submodule(name)
    assert found.weight.detach().numpy() == pytest.approx(solution[:-1].T, abs=1e-4)
    assert found.bias.detach().numpy() == pytest.approx(solution[-1], abs=1e-4)
    plain = seen(cut(copy.deepcopy(base), target), name, given)[1]
    assert ((seen(model, name, given)[1] - written) ** 2).sum() < 0.7 * ((plain - written) ** 2).sum()


def test_an_empty_block_writes_the_mean(make_model: Callable[..., PreTrainedModel]) -> None:
    base = make_model("distilbert")
    target = Architecture((KeptUnits((), FULL.neurons), FULL, FULL))
    model = cut(copy.deepcopy(base), target)
    given = calibration()
    correct_projections(model, base, target, Grams(base, given))
    name = "distilbert.transformer.layer.0.attention.out_lin"
    mean = seen(base, name, given)[1].mean(axis=0)
    assert model.get_submodule(name).bias.detach().numpy() == pytest.approx(mean, abs=0.02)


def test_a_model_that_lost_nothing_is_not_touched(make_model: Callable[..., PreTrainedModel]) -> None:
    base = make_model("bert")
    model = copy.deepcopy(base)
    correct_projections(model, base, Architecture((FULL, FULL, FULL)), Grams(base, calibration(1)))
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in model.state_dict().items())
