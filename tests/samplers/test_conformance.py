"""Optuna's own conformance suites for samplers."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from nasopt.samplers import AdaBERTSampler, AlphaNASSampler, FisherSampler, GeneticSampler
from nasopt.samplers.named import sampler_maker

pytestmark = pytest.mark.integration


class TestGeneticSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: GeneticSampler(population_size=4, seed=0)


class TestAlphaNASSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: AlphaNASSampler(population_size=4, seed=0)


class TestAdaBERTSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: AdaBERTSampler(seed=0)


class TestFisherSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        first = [{"latency_share": share, "training": "none"} for share in (1.0, 0.5)]
        return lambda: FisherSampler(sampler_maker("nsga2", 4), 0, first)
