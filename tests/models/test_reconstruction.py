"""Refitted output projections, against NumPy and where the lost part can be recovered exactly."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.families import encoder_shape
from nasopt.models.reconstruction import _refit, reconstruct
from nasopt.models.surgery import cut


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
        return BertModel(BertConfig(vocab_size=60, **sizes), add_pooling_layer=False).eval()
    return DistilBertModel(DistilBertConfig(vocab_size=60, n_layers=2, n_heads=4, dim=32, hidden_dim=48)).eval()


def batches(count: int = 6) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(8, 10, dtype=torch.long)
    mask[::2, 6:] = 0
    return [
        {"input_ids": torch.randint(0, 60, (8, 10), generator=generator), "attention_mask": mask} for _ in range(count)
    ]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_projection_solves_the_ridge_regression(is_weighted: bool) -> None:
    """With weights each token's row counts as often as its weight says."""
    generator = np.random.default_rng(0)
    inputs, wanted = generator.normal(size=(50, 4)), generator.normal(size=(50, 3))
    weights = generator.integers(0, 5, size=50) if is_weighted else np.ones(50, dtype=int)
    projection = nn.Linear(4, 3)
    before = torch.cat([projection.weight, projection.bias[:, None]], dim=1).detach().numpy().astype(np.float64)
    tensors = [torch.tensor(part, dtype=torch.float32) for part in np.split(inputs, 5)]
    with torch.no_grad():
        target = torch.tensor(wanted, dtype=torch.float32)
        _refit(projection, iter(tensors), target, 0.3, torch.tensor(weights) if is_weighted else None)
    extended = np.hstack([inputs, np.ones((50, 1))]).repeat(weights, axis=0)
    gram = extended.T @ extended
    penalty = 0.3 * np.diag(gram).mean() * np.eye(5)
    expected = np.linalg.solve(gram + penalty, extended.T @ wanted.repeat(weights, axis=0) + penalty @ before.T)
    after = torch.cat([projection.weight, projection.bias[:, None]], dim=1).detach().numpy()
    assert after == pytest.approx(expected.T, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_what_twins_wrote_is_recovered(kind: str) -> None:
    """One of two equal neurons, and one of two equal heads, go: the other can write what both wrote."""
    base = model_of(kind)
    names = (
        (["attention.self.query", "attention.self.key", "attention.self.value"], "intermediate.dense")
        if kind == "bert"
        else (["attention.q_lin", "attention.k_lin", "attention.v_lin"], "ffn.lin1")
    )
    layers = base.encoder.layer if kind == "bert" else base.transformer.layer
    with torch.no_grad():
        for layer in layers:
            for name, size in (*((name, 8) for name in names[0]), (names[1], 1)):
                linear = layer.get_submodule(name)
                linear.weight[:size] = linear.weight[size : 2 * size]
                linear.bias[:size] = linear.bias[size : 2 * size]
    shape = encoder_shape(base.config)
    units = KeptUnits(tuple(range(1, shape.num_heads)), tuple(range(1, shape.ffn_size)))
    target = replace(Architecture.full(shape), layers=(units, units))
    student = cut(copy.deepcopy(base), target)
    given = batches()
    with torch.no_grad():
        wanted = base(**given[0])[0]
        before = (student(**given[0])[0] - wanted).abs().max()
        reconstruct(student, base, target.kept_layers, given, ridge=1e-9)
        after = (student(**given[0])[0] - wanted).abs().max()
    assert before > 0.01
    assert after < 1e-3


def test_a_model_that_lost_nothing_stays_as_it_is() -> None:
    base = model_of("bert")
    student = copy.deepcopy(base)
    reconstruct(student, base, (0, 1), batches())
    for name, weight in student.state_dict().items():
        assert torch.allclose(weight, base.state_dict()[name], atol=1e-5), name


def test_layers_that_are_done_do_not_run_again() -> None:
    base = model_of("bert")
    student = copy.deepcopy(base)
    runs: list[int] = []

    first = student.encoder.layer[0].attention.self.query
    first.register_forward_hook(lambda *_: runs.append(0))
    reconstruct(student, base, (0, 1), batches(2))
    assert len(runs) == 2 * 3  # for both projections, and to pass by, of each batch
    assert all("forward" not in vars(module) for module in student.modules())


def test_empty_blocks_and_removed_layers_are_passed_over() -> None:
    base = model_of("bert")
    target = Architecture((None, KeptUnits((), tuple(range(16)))))
    student = cut(copy.deepcopy(base), target)
    steps: list[tuple[int, int]] = []
    reconstruct(student, base, target.kept_layers, batches(2), on_step=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    assert all(torch.isfinite(weight).all() for weight in student.state_dict().values())
