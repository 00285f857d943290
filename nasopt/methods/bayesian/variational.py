"""The losses of a student with a prior over its weights: the likelihood of its data and a term for the prior.

METHODS.md, section 5: `min KL(q(w) || p(w)) - E_q sum_i log p(y_i | x_i, w)` by Bayes by backprop (Blundell et
al. 2015) with a mean-field Gaussian q; and its shadow, the maximum a posteriori: the same with q in one point. Losses
are means (over examples, or over target tokens: :meth:`nasopt.tasks.base.Task.loss_terms`), so that the divergence is
divided by the number of their terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nasopt.models.prior import Prior
from nasopt.training.loop import LossFunction

LARGEST_INITIAL_VARIANCE = 1e-4
"""q starts no wider than this, or the first steps of a student with a vague prior would see noise only."""


class Variational(nn.Module):
    """A model whose weights are drawn anew at each step: `w = mean + exp(log_variance / 2) * noise`.

    The means are the weights of the model inside, which is the student when training is done.

    Args:
        model: the student; q starts at its weights.
        prior: the prior of some of its weights, which are drawn; others stay points.
        names: the names of those weights in the model, by their names in the prior.
    """

    def __init__(self, model: nn.Module, prior: Prior, names: Mapping[str, str]) -> None:
        super().__init__()
        self.model = model
        self._places = {name: names[name] for name in prior.posterior.mean}
        parameters = dict(model.named_parameters())
        # Where the weights are fixed at their prior's mean, the divergence is least at these widths. One dimension:
        # the training loop's weight decay is for matrices.
        self.log_variances = nn.ParameterList(
            prior.precision[name].reciprocal().clamp(max=LARGEST_INITIAL_VARIANCE).log().flatten()
            for name in self._places
        )
        for name, log_variance in zip(self._places, self.log_variances, strict=True):
            log_variance.requires_grad_(parameters[names[name]].requires_grad)

    def get_input_embeddings(self) -> nn.Module:
        """The model's word embeddings, which the training loop may freeze."""
        embeddings: nn.Module = self.model.get_input_embeddings()  # type: ignore[operator]
        return embeddings

    def distribution(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Means and logarithms of variances of q, by the prior's names."""
        parameters = dict(self.model.named_parameters())
        means: dict[str, Tensor] = {name: parameters[place] for name, place in self._places.items()}
        return means, {name: flat.view_as(means[name]) for name, flat in zip(means, self.log_variances, strict=True)}

    def sampled(self, loss: LossFunction, batch: Any) -> Tensor:
        """The loss of the model on a batch with weights drawn from q."""
        means, log_variances = self.distribution()
        drawn = {
            f"model.{self._places[name]}": mean + (log_variances[name] / 2).exp() * torch.randn_like(mean)
            for name, mean in means.items()
        }
        value: Tensor = functional_call(_Scored(self.model, loss), drawn, (batch,))
        return value


class _Scored(nn.Module):
    """A loss as a module, so that the model keeps its class and its methods while its weights are replaced."""

    def __init__(self, model: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        return self._loss(self.model, batch)


def elbo_loss(likelihood: LossFunction, prior: Prior, weight: float) -> LossFunction:
    """`likelihood + weight * KL(q || prior)` of a :class:`Variational`; `weight` is 1 / terms for Bayes' rule."""

    def loss(model: Any, batch: Any) -> Tensor:
        assert isinstance(model, Variational)
        with torch.autocast(batch.labels.device.type, enabled=False):
            divergence = prior.kl_divergence(*model.distribution())
        return model.sampled(likelihood, batch) + weight * divergence

    return loss


def map_loss(likelihood: LossFunction, prior: Prior, weight: float, names: Mapping[str, str]) -> LossFunction:
    """`likelihood + weight * 1/2 (w - m)^T S^-1 (w - m)`.

    Args:
        likelihood: the task's loss.
        prior: N(m, S).
        weight: 1 / terms of the likelihood in the training split, for Bayes' rule.
        names: the names of the model's weights, by their names in the prior.
    """

    def loss(model: Any, batch: Any) -> Tensor:
        parameters = dict(model.named_parameters())
        weights = {name: parameters[names[name]] for name in prior.posterior.mean}
        with torch.autocast(batch.labels.device.type, enabled=False):
            penalty = prior.map_penalty(weights)
        return likelihood(model, batch) + weight * penalty

    return loss
