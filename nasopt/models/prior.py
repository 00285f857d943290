"""A teacher's posterior as the prior of a student: the penalties that training adds to the likelihood.

See METHODS.md, section 5, "Low rank, without forming Sigma". With `A = D^-1 R'`, `N = I + c R'^T A` Woodbury's identity
is `S^-1 = D^-1 - c A N^-1 A^T`, and `log det S = sum log D + log det N`. A `point` posterior has no variances; they
count as 1 everywhere, so that its penalty is the distance from the start (L2-SP, Li et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nasopt.models.posterior import Posterior, factorised


class Prior:
    """A posterior with the values that every step of a training needs, computed once.

    It holds, beside the posterior, one tensor of each weight's shape: the diagonal of S^-1.

    Args:
        posterior: the posterior of all weights that are trained, by name; on the device of the training.
    """

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior
        self.precision: dict[str, Tensor] = {}
        """The diagonal of S^-1, by name."""
        self._inner: Tensor | None = None  # c T N^-1 T^T, (K, K): S^-1 = D^-1 - D^-1 R inner R^T D^-1
        self._log_determinant = self._log_variances()
        if posterior.transform is not None:
            self._log_determinant += self._correlate(posterior.transform)
        for name in posterior.mean:
            self.precision[name] = self._precision(name)

    def map_penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The penalty `1/2 d^T S^-1 d` at `d = w - m`: the log density at its maximum minus that at w.

        Args:
            parameters: w, by name; those that the posterior does not have (a new head) are free.

        Returns:
            A scalar, differentiable in the parameters; 0 at the mean.
        """
        differences = {name: parameters[name] - mean for name, mean in self.posterior.mean.items()}
        return self._distance(differences) / 2

    def kl_divergence(self, mean: Mapping[str, Tensor], log_variance: Mapping[str, Tensor]) -> Tensor:
        """The divergence KL( N(mean, diag exp(log_variance)) || prior ), a scalar, differentiable in both.

        Args:
            mean: the means of q, by name, for at least the posterior's names.
            log_variance: the logarithms of q's variances, of the same shapes.
        """
        names = list(self.posterior.mean)
        size = sum(self.posterior.mean[name].numel() for name in names)
        spread = sum((log_variance[name].exp() * self.precision[name]).sum() for name in names)
        entropy = sum(log_variance[name].sum() for name in names)
        differences = {name: self.posterior.mean[name] - mean[name] for name in names}
        return (spread + self._distance(differences) - size + self._log_determinant - entropy) / 2

    def _distance(self, differences: Mapping[str, Tensor]) -> Tensor:
        """The squared distance `d^T S^-1 d`."""
        scaled = {name: tensor / self._variance(name) for name, tensor in differences.items()}
        distance = torch.stack([(scaled[name] * differences[name]).sum() for name in scaled]).sum()
        deviations = self.posterior.deviations
        if deviations is None or self._inner is None:
            return distance
        along = torch.stack(
            [deviations[name].flatten(1).to(tensor) @ tensor.flatten() for name, tensor in scaled.items()]
        ).sum(dim=0)
        return distance - along @ self._inner.to(along) @ along

    def _variance(self, name: str) -> Tensor | float:
        return 1.0 if self.posterior.variance is None else self.posterior.variance[name]

    def _log_variances(self) -> float:
        variances = self.posterior.variance
        return 0.0 if variances is None else math.fsum(float(t.double().log().sum()) for t in variances.values())

    def _correlate(self, transform: Tensor) -> float:
        """Sets the inner matrix; returns log det N."""
        assert self.posterior.variance is not None
        assert self.posterior.deviations is not None
        gram = torch.zeros_like(transform)
        for name, deviations in self.posterior.deviations.items():
            columns = deviations.flatten(1)
            gram += ((columns / self.posterior.variance[name].flatten()) @ columns.T).to(gram)
        factor = factorised(self.posterior.scale * transform.T @ gram @ transform)
        half = torch.linalg.solve_triangular(factor, transform.T, upper=False)  # L^-1 T^T
        self._inner = self.posterior.scale * half.T @ half
        return 2.0 * float(factor.diagonal().log().sum())

    def _precision(self, name: str) -> Tensor:
        """The part of the diagonal of S^-1 that belongs to one tensor; in (0, 1 / D] except for rounding."""
        mean = self.posterior.mean[name]
        if self.posterior.variance is None:
            return torch.ones_like(mean)
        variance = self.posterior.variance[name]
        if self._inner is None or self.posterior.deviations is None:
            return variance.reciprocal()
        columns = self.posterior.deviations[name].flatten(1).to(mean)
        correlated = ((self._inner.to(columns) @ columns) * columns).sum(dim=0).view_as(mean)
        return (variance.reciprocal() - correlated / variance.square()).clamp(min=0.0)
