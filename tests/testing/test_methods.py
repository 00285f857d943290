"""Our methods keep to the rules of nasopt.testing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from study_text import GENETIC, study_text

from nasopt.config.study import StudyConfig
from nasopt.study.creation import read_study_file
from nasopt.testing import MethodTestCase

pytestmark = pytest.mark.integration

MakeConfig = Callable[[str, str], StudyConfig]


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> MakeConfig:
    """Reads a small study of a method with these lines in its `[method_options]`."""

    def make(method: str, options: str) -> StudyConfig:
        file = tmp_path_factory.mktemp("file") / f"{method}.toml"
        file.write_text(study_text(tiny_bert, sentiment, options, method=method, base_epochs=2))
        return read_study_file(file)

    return make


class TestGenetic(MethodTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, make_config: MakeConfig) -> StudyConfig:
        options = GENETIC.replace("population_size = 4", "population_size = 3")
        return make_config("genetic", options.replace('start = "base"', 'ladder = 2\ncost = "flops"'))


class TestAlphaNAS(MethodTestCase):
    TRIALS = 3  # of seven masks that there are

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, make_config: MakeConfig) -> StudyConfig:
        return make_config("alphanas", "population_size = 2\ngenerations = 2\nmin_quality = 0")

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        return [{"max_parameters": 1}]


class TestAdaBERT(MethodTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, make_config: MakeConfig) -> StudyConfig:
        options = "trials = 4\nhidden_size = 16\ncells = 3\nlayer_pairs = [[0, 0], [1, 2], [2, 3]]\n"
        return make_config("adabert", f"{options}search_epochs = 1\nwarmup_epochs = 0\nsearch_batch_size = 16")

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        return [{"layer_pairs": [[2, 4]]}, {"embedding_rank": 17}]


class TestTaylor(MethodTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, make_config: MakeConfig) -> StudyConfig:
        ranges = "heads = [0.25, 0.75]\nffn = [0.34, 0.67]\nlearning_rate = [1e-4, 1e-3]"
        return make_config("taylor", f'trials = 4\nsampler = "random"\n{ranges}\nsaliency_examples = 32')

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        return [{"hidden_layers": [4]}, {"vocabulary_texts": ["/nowhere/texts"]}]


class TestBayesian(MethodTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, make_config: MakeConfig) -> StudyConfig:
        options = 'trials = 4\nsampler = "random"\nposterior_rank = 2\nposterior_collections = 4\n'
        return make_config("bayesian", f'{options}learning_rate = [1e-4, 1e-2]\nobjectives = ["ce", "map"]')

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        return [{"removable_layers": [3]}]


class TestFisher(MethodTestCase):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, make_config: MakeConfig) -> StudyConfig:
        return make_config("fisher", 'trials = 6\nladder = 3\nlowest_share = 0.3\ncost = "flops"\nexamples = 32')

    @pytest.fixture(scope="class")
    @classmethod
    def refused(cls) -> Sequence[Mapping[str, Any]]:
        return [{"examples": 161}, {"lowest_share": 0.0}, {"criteria": ["taylor"]}]
