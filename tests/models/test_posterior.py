from __future__ import annotations

import numpy as np
import pytest
import torch

from nasopt.models.posterior import VARIANCE_FLOOR, condition, diagonal, distance_to_zero, low_rank, point, sample
from nasopt.models.prior import Prior

SHAPES = {"a": (2, 3), "b": (4,), "c": (3,), "d": (2, 2)}
COLUMNS = 3


def _vector(tensors, names):
    return np.concatenate([np.asarray(tensors[name]).reshape(-1) for name in names])


def _gaussian(seed):
    """A low-rank posterior, and its names, dense mean and covariance."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mean = {name: draw(*shape) for name, shape in SHAPES.items()}
    variance = {name: draw(*shape).square() + 0.1 for name, shape in SHAPES.items()}
    deviations = {name: draw(COLUMNS, *shape) for name, shape in SHAPES.items()}
    return low_rank(mean, variance, deviations)


def _dense(posterior, names):
    """The covariance by definition, D + c R R^T; only for posteriors that nothing was done to."""
    diagonal_part = np.diag(_vector(posterior.variance, names))
    if posterior.deviations is None:
        return diagonal_part
    columns = np.concatenate([posterior.deviations[name].flatten(1).numpy() for name in names], axis=1).T
    return diagonal_part + columns @ columns.T / (2 * (COLUMNS - 1))


def _covariance(posterior, names):
    """The covariance D + c R' R'^T of a posterior that was conditioned."""
    columns = np.concatenate([posterior.deviations[name].flatten(1).numpy() for name in names], axis=1).T
    columns = columns @ posterior.transform.numpy()
    return np.diag(_vector(posterior.variance, names)) + columns @ columns.T / (2 * (COLUMNS - 1))


def _places(names):
    """The place of each tensor in the vector of all."""
    sizes = [int(np.prod(SHAPES[name])) for name in SHAPES]
    starts = dict(zip(SHAPES, np.cumsum([0, *sizes[:-1]]), strict=True))
    return np.concatenate([np.arange(starts[name], starts[name] + np.prod(SHAPES[name])) for name in names])


def _theorem(posterior, zeroed, kept):
    """Conditional mean and covariance with dense matrices, straight from the formula."""
    mean, covariance = _vector(posterior.mean, SHAPES), _dense(posterior, SHAPES)
    one, v = _places(zeroed), _places(kept)
    gain = covariance[np.ix_(v, one)] @ np.linalg.inv(covariance[np.ix_(one, one)])
    return mean[v] - gain @ mean[one], covariance[np.ix_(v, v)] - gain @ covariance[np.ix_(one, v)]


@pytest.mark.parametrize("seed", range(5))
def test_conditioning_is_the_theorem(seed):
    posterior = _gaussian(seed)
    result = condition(posterior, zeroed=["b"], removed=["c"])
    mean, covariance = _theorem(posterior, ["b"], ["a", "d"])
    assert list(result.mean) == ["a", "d"]
    np.testing.assert_allclose(_vector(result.mean, ["a", "d"]), mean, atol=1e-8)
    np.testing.assert_allclose(_covariance(result, ["a", "d"]), covariance, atol=1e-8)


def test_layers_removed_one_by_one_in_either_order_are_those_removed_together():
    posterior = _gaussian(7)
    together = condition(posterior, ["b", "c"])
    for first, second in (("b", "c"), ("c", "b")):
        result = condition(condition(posterior, [first]), [second])
        np.testing.assert_allclose(_vector(result.mean, "ad"), _vector(together.mean, "ad"), atol=1e-8)
        np.testing.assert_allclose(_covariance(result, "ad"), _covariance(together, "ad"), atol=1e-8)
    mean, _ = _theorem(posterior, ["b", "c"], ["a", "d"])
    np.testing.assert_allclose(_vector(together.mean, "ad"), mean, atol=1e-8)


def test_without_correlations_the_rest_stays_as_it_was():
    posterior = _gaussian(3)
    independent = diagonal(posterior.mean, posterior.variance)
    for before in (independent, point(posterior.mean)):
        after = condition(before, ["b"], ["c"])
        assert after.structure == before.structure
        assert all(torch.equal(after.mean[name], before.mean[name]) for name in ("a", "d"))
    blocks = {n: t if n in "ab" else torch.zeros_like(t) for n, t in posterior.deviations.items()}
    after = condition(low_rank(posterior.mean, posterior.variance, blocks), ["b"])
    assert torch.equal(after.mean["d"], posterior.mean["d"])
    assert not torch.equal(after.mean["a"], posterior.mean["a"])


def test_distance_to_zero_is_mahalanobis():
    posterior = _gaussian(4)
    places = _places(["a", "b"])
    mean = _vector(posterior.mean, SHAPES)[places]
    covariance = _dense(posterior, SHAPES)[np.ix_(places, places)]
    assert distance_to_zero(posterior, ["a", "b"]) == pytest.approx(mean @ np.linalg.inv(covariance) @ mean, rel=1e-10)
    assert distance_to_zero(point(posterior.mean), ["a"]) is None
    smaller = condition(posterior, ["c"])
    mean, covariance = _theorem(posterior, ["c"], ["b"])
    assert distance_to_zero(smaller, ["b"]) == pytest.approx(mean @ np.linalg.inv(covariance) @ mean, rel=1e-10)


def test_samples_have_the_posteriors_mean_and_covariance():
    posterior = condition(_gaussian(5), ["c"], ["d"])
    generator = torch.Generator().manual_seed(0)
    drawn = np.stack([_vector(sample(posterior, generator), "ab") for _ in range(20_000)])
    expected = _covariance(posterior, "ab")
    np.testing.assert_allclose(drawn.mean(axis=0), _vector(posterior.mean, "ab"), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.05 * np.abs(expected).max())
    certain = point(posterior.mean)
    assert torch.equal(sample(certain, generator)["a"], posterior.mean["a"])


@pytest.mark.parametrize("structure", ["low_rank", "diagonal", "point"])
def test_penalties_are_those_of_dense_gaussians(structure):
    posterior = condition(_gaussian(6), ["c"])
    names = ["a", "b", "d"]
    covariance = _covariance(posterior, names)
    if structure == "diagonal":
        posterior = diagonal(posterior.mean, posterior.variance)
        covariance = np.diag(_vector(posterior.variance, names))
    elif structure == "point":
        posterior = point(posterior.mean)
        covariance = np.eye(len(covariance))
    prior = Prior(posterior)
    generator = torch.Generator().manual_seed(1)
    mean = {name: torch.randn(SHAPES[name], generator=generator, dtype=torch.float64) for name in names}
    log_variance = {name: torch.randn(SHAPES[name], generator=generator, dtype=torch.float64) for name in names}

    inverse = np.linalg.inv(covariance)
    difference = _vector(mean, names) - _vector(posterior.mean, names)
    distance = difference @ inverse @ difference
    assert float(prior.map_penalty(mean)) == pytest.approx(distance / 2, rel=1e-8)
    spread = np.exp(_vector(log_variance, names))
    expected = np.trace(inverse @ np.diag(spread)) + distance - len(spread)
    expected += np.linalg.slogdet(covariance)[1] - np.log(spread).sum()
    assert float(prior.kl_divergence(mean, log_variance)) == pytest.approx(expected / 2, rel=1e-8)


def test_the_map_penalty_pulls_along_the_inverse_covariance():
    posterior = _gaussian(8)
    parameters = {name: torch.zeros(shape, dtype=torch.float64, requires_grad=True) for name, shape in SHAPES.items()}
    Prior(posterior).map_penalty(parameters).backward()
    gradient = _vector({name: tensor.grad for name, tensor in parameters.items()}, SHAPES)
    expected = -np.linalg.solve(_dense(posterior, SHAPES), _vector(posterior.mean, SHAPES))
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_a_singular_covariance_is_raised_to_the_stated_floor():
    posterior = _gaussian(9)
    flat = {name: torch.zeros_like(tensor) for name, tensor in posterior.variance.items()}
    alike = {name: torch.ones_like(tensor) for name, tensor in posterior.deviations.items()}
    singular = low_rank(posterior.mean, flat, alike)
    assert all(bool((tensor == VARIANCE_FLOOR).all()) for tensor in singular.variance.values())
    result = condition(singular, ["b"], ["c"])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.mean.values())
    assert np.isfinite(distance_to_zero(singular, ["b"]))
    assert torch.isfinite(Prior(singular).map_penalty(posterior.mean))


def test_unknown_names_and_single_deviations_are_refused():
    posterior = _gaussian(0)
    with pytest.raises(KeyError, match="'e'"):
        condition(posterior, ["e"])
    with pytest.raises(ValueError, match="at least 2"):
        low_rank(posterior.mean, posterior.variance, {n: t[:1] for n, t in posterior.deviations.items()})
