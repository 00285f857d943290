"""Gaussian posteriors over a model's weights, and the posterior that is left when part of the model goes.

The theorem (METHODS.md, section 5): weights `u = (xi_1, xi_2, v) ~ N(m, S)`. Removing a layer is conditioning on
`xi_1 = 0` (the weights that write its output) and marginalising `xi_2` (its other weights):

    v ~ N(m_v - S_v1 S_11^-1 m_1,  S_vv - S_v1 S_11^-1 S_1v)

S has one of three structures: `point` (no covariance: u is known exactly), `diagonal`, and `low_rank`,
`S = D + c R R^T` with K columns in R, the form of SWAG (Maddox et al. 2019: D half the variances,
`c = 1 / (2 (K - 1))`). No p x p matrix is ever formed: by Woodbury's identity the posterior given `xi_1 = 0` is
`D_v + c R'_v R'_v^T` with `R'_v = R_v L^-T`, the same form again. Only `L^-T`, which is K x K, is kept of a step: R is
shared by all posteriors that are made from one.

Shapes: p weights in all, K columns. K x K algebra is float64; the rest is in the dtype of the tensors given.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Structure: TypeAlias = Literal["point", "diagonal", "low_rank"]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)

VARIANCE_FLOOR = 1e-10
"""The least variance (D) of a weight: the stated epsilon, by which every covariance can be inverted."""


@dataclass(frozen=True)
class Posterior:
    """A Gaussian over named weights. Made by :func:`point`, :func:`diagonal` and :func:`low_rank`.

    Attributes:
        mean: m, by name.
        variance: D, by name, each of the shape of its mean; None for `point`.
        deviations: the columns of R before any conditioning, each (K, *shape); None except for `low_rank`.
        transform: T, (K, K) in float64, with R' = R T; None except for `low_rank`.
    """

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor] | None = None
    deviations: Mapping[str, Tensor] | None = None
    transform: Tensor | None = None

    @property
    def structure(self) -> Structure:
        if self.variance is None:
            return "point"
        return "diagonal" if self.deviations is None else "low_rank"

    @property
    def scale(self) -> float:
        """The factor c of the module's docstring."""
        assert self.transform is not None
        return 1.0 / (2.0 * (len(self.transform) - 1))


def point(mean: Mapping[str, Tensor]) -> Posterior:
    """A posterior without covariance: only the weights themselves are known."""
    return Posterior(dict(mean))


def diagonal(mean: Mapping[str, Tensor], variance: Mapping[str, Tensor]) -> Posterior:
    """A posterior of independent weights; variances below :data:`VARIANCE_FLOOR` are raised to it."""
    return Posterior(dict(mean), _floored(variance))


def low_rank(mean: Mapping[str, Tensor], variance: Mapping[str, Tensor], deviations: Mapping[str, Tensor]) -> Posterior:
    """A posterior with the covariance `D + R R^T / (2 (K - 1))`.

    Args:
        mean: m.
        variance: D (for SWAG *half* the variances); values below :data:`VARIANCE_FLOOR` are raised to it.
        deviations: the K columns of R, each tensor (K, *shape), K at least 2.

    Raises:
        ValueError: there are fewer than two columns.
    """
    columns = {len(tensor) for tensor in deviations.values()}
    if len(columns) != 1 or min(columns) < 2:
        raise ValueError(
            f"a low-rank posterior needs the same number of deviations, at least 2, of all weights: {columns}"
        )
    identity = torch.eye(columns.pop(), dtype=torch.float64)
    return Posterior(dict(mean), _floored(variance), dict(deviations), identity)


def condition(posterior: Posterior, zeroed: Collection[str], removed: Collection[str] = ()) -> Posterior:
    """The posterior of the other weights, given that the weights `zeroed` are 0; `removed` ones are marginalised.

    Several calls one after another, in any order, give the same as one call with all names.

    Args:
        posterior: the posterior of all weights; it is not changed, and its R is shared with the result.
        zeroed: the names of xi_1.
        removed: the names of xi_2.

    Raises:
        KeyError: the posterior does not have one of the names.
    """
    gone = {*zeroed, *removed}
    unknown = sorted(gone - set(posterior.mean))
    if unknown:
        raise KeyError(f"the posterior has no weight {unknown[0]!r}")
    kept = Posterior(
        _without(posterior.mean, gone),
        None if posterior.variance is None else _without(posterior.variance, gone),
        None if posterior.deviations is None else _without(posterior.deviations, gone),
        posterior.transform,
    )
    if kept.deviations is None or posterior.transform is None:
        return kept  # S_v1 = 0: the others do not change
    factor, projection = _woodbury(posterior, zeroed)
    # c T M^-1 g, the coordinates of the shift along the columns of R
    solved = torch.cholesky_solve(projection[:, None], factor)[:, 0]
    shift = posterior.scale * posterior.transform @ solved
    mean = {
        name: tensor - torch.tensordot(shift.to(tensor), kept.deviations[name].to(tensor), dims=1)
        for name, tensor in kept.mean.items()
    }
    transform = torch.linalg.solve_triangular(factor, posterior.transform.T, upper=False).T
    return replace(kept, mean=mean, transform=transform)


def distance_to_zero(posterior: Posterior, zeroed: Collection[str]) -> float | None:
    """The squared Mahalanobis distance of zero from the posterior of some weights: `m_1^T S_11^-1 m_1`.

    If the weights were drawn around zero it would be about their number. It is None for `point`, which has no variance.
    """
    if posterior.variance is None:
        return None
    distance = sum(float((posterior.mean[n].double().square() / posterior.variance[n]).sum()) for n in zeroed)
    if posterior.transform is not None:
        factor, projection = _woodbury(posterior, zeroed)
        solved = torch.cholesky_solve(projection[:, None], factor)[:, 0]
        distance -= posterior.scale * float(projection @ solved)
    return distance


def on_device(posterior: Posterior, device: torch.device) -> Posterior:
    """The same posterior with its large tensors on a device; K x K algebra stays on the CPU."""

    def moved(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        return None if tensors is None else {name: tensor.to(device) for name, tensor in tensors.items()}

    mean = {name: tensor.to(device) for name, tensor in posterior.mean.items()}
    return Posterior(mean, moved(posterior.variance), moved(posterior.deviations), posterior.transform)


def sample(posterior: Posterior, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights drawn from the posterior: `m + D^(1/2) z_1 + c^(1/2) R' z_2`; the mean itself for `point`."""
    if posterior.variance is None:
        return dict(posterior.mean)
    coordinates = None
    if posterior.transform is not None:
        noise = torch.randn(len(posterior.transform), generator=generator, dtype=torch.float64)
        coordinates = posterior.scale**0.5 * posterior.transform @ noise
    drawn = {}
    for name, mean in posterior.mean.items():
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        drawn[name] = mean + posterior.variance[name].sqrt() * noise
        if coordinates is not None and posterior.deviations is not None:
            drawn[name] += torch.tensordot(coordinates.to(mean), posterior.deviations[name].to(mean), dims=1)
    return drawn


def _woodbury(posterior: Posterior, zeroed: Collection[str]) -> tuple[Tensor, Tensor]:
    """The lower Cholesky factor L of `M = I + c R'_1^T D_1^-1 R'_1`, (K, K), and `g = R'_1^T D_1^-1 m_1`, (K,)."""
    assert posterior.variance is not None
    assert posterior.deviations is not None
    assert posterior.transform is not None
    transform = posterior.transform
    gram, projection = torch.zeros_like(transform), torch.zeros_like(transform[0])
    for name in zeroed:
        columns = posterior.deviations[name].flatten(1).double()
        precision = posterior.variance[name].flatten().double().reciprocal()
        gram += (columns * precision) @ columns.T
        projection += columns @ (precision * posterior.mean[name].flatten().double())
    return factorised(posterior.scale * transform.T @ gram @ transform), transform.T @ projection


def factorised(gram: Tensor) -> Tensor:
    """The lower Cholesky factor of `I + gram`, (K, K).

    Rounding can make a huge and nearly singular `gram` slightly indefinite: then as much is added to its diagonal.
    """
    identity = torch.eye(len(gram), dtype=gram.dtype)
    matrix = identity + (gram + gram.T) / 2
    epsilon = torch.finfo(gram.dtype).eps * float(matrix.diagonal().max())
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    while bool(failed) and math.isfinite(epsilon):
        factor, failed = torch.linalg.cholesky_ex(matrix + epsilon * identity)
        epsilon *= 10
    return factor


def _floored(variance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clamp(min=VARIANCE_FLOOR) for name, tensor in variance.items()}


def _without(tensors: Mapping[str, Tensor], gone: Collection[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in gone}
