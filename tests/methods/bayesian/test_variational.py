from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nasopt.methods.bayesian.variational import LARGEST_INITIAL_VARIANCE, Variational, elbo_loss, map_loss
from nasopt.models.posterior import diagonal, point
from nasopt.models.prior import Prior

BATCH = SimpleNamespace(labels=torch.zeros(1))


def _linear():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(-1.0)
    return model


def _prior(variance=1e-6):
    mean = {"teacher.weight": torch.zeros(2, 3)}
    return Prior(diagonal(mean, {"teacher.weight": torch.full((2, 3), variance)}))


@torch.no_grad()
def test_each_step_draws_weights_around_the_means():
    model = _linear()
    student = Variational(model, _prior(), {"teacher.weight": "weight"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs = torch.ones(1, 3)
        outputs = [student.sampled(lambda model, inputs: model(inputs)[0, 0], inputs) for _ in range(4000)]
    drawn = torch.stack(outputs)
    # Each output is the sum of three weights of standard deviation 1e-3, and a bias that the prior does not know.
    assert float(drawn.mean()) == pytest.approx(0.5, abs=1e-4)
    assert float(drawn.std()) == pytest.approx(math.sqrt(3) * 1e-3, rel=0.05)
    assert torch.equal(model.weight, torch.full((2, 3), 0.5))


def test_q_starts_as_wide_as_its_prior_but_not_too_wide():
    for variance, expected in ((1e-6, 1e-6), (4.0, LARGEST_INITIAL_VARIANCE)):
        student = Variational(_linear(), _prior(variance), {"teacher.weight": "weight"})
        _, log_variances = student.distribution()
        torch.testing.assert_close(log_variances["teacher.weight"].exp(), torch.full((2, 3), expected))


def test_the_prior_is_added_in_its_proportion_and_has_gradients():
    model = _linear()
    names = {"teacher.weight": "weight"}
    penalty = map_loss(lambda model, batch: torch.tensor(2.0), _prior(0.5), 0.1, names)(model, BATCH)
    assert float(penalty) == pytest.approx(2.0 + 0.1 * 6 * 0.25 / 0.5 / 2)  # six weights at 0.5, variance 0.5
    student = Variational(model, _prior(0.5), names)
    loss = elbo_loss(lambda model, batch: model.bias.sum() * 0 + 2.0, _prior(0.5), 0.1)(student, BATCH)
    ratio = LARGEST_INITIAL_VARIANCE / 0.5
    divergence = 6 * (ratio + 0.25 / 0.5 - 1 - math.log(ratio)) / 2
    assert float(loss) == pytest.approx(2.0 + 0.1 * divergence, rel=1e-5)
    loss.backward()
    assert model.weight.grad is not None
    assert float(student.log_variances[0].grad.abs().min()) > 0
    # d/d log s of (s / v - log s) / 2
    torch.testing.assert_close(student.log_variances[0].grad, torch.full((6,), 0.1 * (ratio - 1) / 2))


def test_a_point_pulls_back_to_where_it_is():
    model = _linear()
    prior = Prior(point({"weight": torch.zeros(2, 3)}))
    loss = map_loss(lambda model, batch: torch.tensor(0.0), prior, 1.0, {"weight": "weight"})
    assert float(loss(model, BATCH)) == pytest.approx(6 * 0.25 / 2)
