from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nasopt.errors import CheckpointError
from nasopt.methods.bayesian.trajectory import (
    Schedule,
    Trajectory,
    epochs_since_base,
    load_posterior,
    posterior_path,
)


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)


def _collect(folder, steps, rank):
    """A random walk; returns the weights of each step as vectors beside the file."""
    generator = torch.Generator().manual_seed(0)
    model = _Tied()
    trajectory = Trajectory(model, Schedule(rank=rank, start=0.0, collections=steps), folder)
    path = []
    for done in range(1, steps + 1):
        with torch.no_grad():
            model.embedding.weight.add_(torch.randn(5, 3, generator=generator))
            model.head.bias.add_(torch.randn(5, generator=generator) * 1e-3)
        trajectory.on_step(done, steps)
        path.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    trajectory.finish("key")
    return posterior_path(folder, "key"), path


@pytest.mark.parametrize(("steps", "rank"), [(7, 3), (3, 5)])
def test_statistics_are_those_of_swag(tmp_path, steps, rank):
    file, path = _collect(tmp_path, steps, rank)
    assert [item.name for item in file.parent.iterdir()] == [file.name]
    assert set(path[0]) == {"embedding.weight", "head.bias", "scale"}  # tied weights once
    low_rank, diagonal, point = (load_posterior(file, kind) for kind in ("low_rank", "diagonal", "point"))
    for name in ("embedding.weight", "head.bias"):
        weights = np.stack([step[name].numpy() for step in path]).astype(np.float64)
        variance = (weights**2).mean(axis=0) - weights.mean(axis=0) ** 2
        np.testing.assert_allclose(low_rank.mean[name], weights.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(diagonal.variance[name], variance, rtol=1e-3)
        np.testing.assert_allclose(low_rank.variance[name], variance / 2, rtol=1e-3)
        np.testing.assert_array_equal(point.mean[name], weights[-1])
        running = np.cumsum(weights, axis=0) / np.arange(1, steps + 1).reshape(-1, *[1] * (weights.ndim - 1))
        columns = sorted((weights - running)[-rank:].reshape(min(rank, steps), -1).tolist())
        found = sorted(low_rank.deviations[name].flatten(1).tolist())
        np.testing.assert_allclose(found, columns, rtol=1e-4, atol=1e-6)
    assert len(low_rank.transform) == min(rank, steps)
    assert float(low_rank.variance["scale"]) > 0  # a frozen weight, at the floor


def test_the_file_says_how_long_a_copy_of_the_base_model_was_trained(tmp_path):
    file, _ = _collect(tmp_path, 3, 2)
    assert epochs_since_base(file) == 0  # the path of the base model itself
    further = Trajectory(_Tied(), Schedule(rank=2, start=0.0, collections=2), tmp_path, epochs=3)
    further.on_step(1, 2)
    further.on_step(2, 2)
    further.finish("further")
    assert epochs_since_base(posterior_path(tmp_path, "further")) == 3
    tensors = load_file(file)
    save_file(tensors, file)  # as an older version left it
    assert epochs_since_base(file) is None
    with pytest.raises(CheckpointError, match="delete it"):
        epochs_since_base(tmp_path / "nothing")


def test_the_file_is_rank_plus_three_copies_of_the_weights(tmp_path):
    file, path = _collect(tmp_path, 4, 2)
    size = 4 * sum(tensor.numel() for tensor in path[0].values())
    assert 5 * size < file.stat().st_size < 5 * size + 2000


def test_collections_are_spread_over_the_end_of_the_training():
    schedule = Schedule(rank=2, start=0.5, collections=4)
    assert [step for step in range(1, 101) if schedule.is_due(step, 100)] == [63, 75, 88, 100]
    assert [step for step in range(1, 4) if schedule.is_due(step, 3)] == [2, 3]


def test_an_unfinished_or_damaged_file_is_no_posterior(tmp_path):
    trajectory = Trajectory(_Tied(), Schedule(), tmp_path)
    trajectory.collect()
    file = posterior_path(tmp_path, "key")
    with pytest.raises(ValueError, match="collected 1 times"):
        trajectory.finish("key")
    with pytest.raises(CheckpointError, match=file.name):
        load_posterior(file, "point")
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_posterior(file, "low_rank")
