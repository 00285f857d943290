"""AdaBERTSampler: its frequencies, the order of its proposals, and that it repeats nothing."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import Trial, TrialState

from nasopt.architecture.cells import OPERATIONS
from nasopt.records.names import SAMPLER_SEED
from nasopt.samplers import AdaBERTSampler, is_exhausted
from nasopt.samplers.adabert import SUPERNET, by_probability, gumbel_max
from nasopt.samplers.genotype import is_own
from nasopt.storage.rdb import open_storage, parse_url

LOGITS = [[0.1, 2.0, 0.3, -0.4, 0.0, 1.5, -1.0], [1.0, 0.0, -0.2, 0.7, 0.1, -0.3, 0.4]]
BEST = ("conv3", "conv1")


def suggest(trial: Trial) -> tuple[str, ...]:
    return tuple(trial.suggest_categorical(f"cell_{index}", OPERATIONS) for index in range(len(LOGITS)))


def objective(trial: Trial) -> tuple[float, float]:
    cells = suggest(trial)
    return float(len(set(cells))), float(OPERATIONS.index(cells[0]))


def new_study(sampler: AdaBERTSampler, logits: list[list[float]] | None = LOGITS, storage: str | None = None) -> Study:
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=sampler,
        storage=None if storage is None else open_storage(parse_url(storage)),
        study_name="cells",
        load_if_exists=True,
    )
    if logits is not None:
        study.set_user_attr(SUPERNET, {"logits": logits})
    return study


def tried(study: Study) -> list[tuple[str, ...]]:
    return [tuple(trial.params.values()) for trial in study.trials if trial.params]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_tempered_distribution(temperature: float) -> None:
    draws = 40_000
    rng = np.random.RandomState(0)
    row = np.array(LOGITS[0])
    counts = Counter(gumbel_max(row, temperature, rng) for _ in range(draws))
    weights = [math.exp(value / temperature) for value in LOGITS[0]]
    for index, weight in enumerate(weights):
        probability = weight / sum(weights)
        error = math.sqrt(probability * (1 - probability) / draws)
        assert abs(counts[index] / draws - probability) < 4.5 * error


def test_proposals_follow_the_distribution_without_the_first() -> None:
    """Each study's second proposal, over many seeds: the learnt distribution without the first proposal."""
    counts: Counter[tuple[str, ...]] = Counter()
    studies = 300
    for seed in range(studies):
        study = new_study(AdaBERTSampler(seed=seed))
        study.optimize(objective, n_trials=2)
        assert tried(study)[0] == BEST
        counts[tried(study)[1]] += 1
    theta = [np.exp(row) / np.exp(row).sum() for row in LOGITS]
    conv3 = theta[0][1] * (1 - theta[1][0]) / (1 - theta[0][1] * theta[1][0])
    share = sum(count for cells, count in counts.items() if cells[0] == "conv3") / studies
    assert BEST not in counts
    assert abs(share - conv3) < 4 * math.sqrt(conv3 * (1 - conv3) / studies)


def test_choices_come_by_probability() -> None:
    rng = np.random.default_rng(0)
    costs = [rng.normal(size=4), rng.normal(size=3), rng.normal(size=2)]
    every = list(itertools.product(range(4), range(3), range(2)))
    expected = sorted(every, key=lambda choice: sum(row[index] for row, index in zip(costs, choice, strict=True)))
    assert list(by_probability(costs)) == expected


@pytest.mark.parametrize("temperature", [1.0, 1e-3])
def test_every_architecture_once_and_then_the_end(temperature: float) -> None:
    study = new_study(AdaBERTSampler(temperature=temperature, seed=1))
    study.optimize(objective, n_trials=49)
    assert len(set(tried(study))) == 49
    assert not any(is_exhausted(trial) for trial in study.trials)
    last = study.ask()
    suggest(last)
    assert is_exhausted(last)


def test_what_others_ask_for_counts_as_tried() -> None:
    study = new_study(AdaBERTSampler(seed=0))
    study.enqueue_trial({"cell_0": "conv3", "cell_1": "conv1"}, user_attrs={"parent": 7})
    study.optimize(objective, n_trials=20)
    assert tried(study)[0] == BEST
    assert len(set(tried(study))) == 20


def test_controls_and_the_base_model_do_not() -> None:
    study = new_study(AdaBERTSampler(seed=0))
    study.enqueue_trial({}, user_attrs={"base": True})
    study.optimize(lambda trial: (0.0, 0.0), n_trials=1)
    study.add_trial(
        optuna.trial.create_trial(
            params=dict(zip(("cell_0", "cell_1"), BEST, strict=True)),
            distributions={f"cell_{index}": CategoricalDistribution(OPERATIONS) for index in range(2)},
            values=[0.0, 0.0],
            user_attrs={"control": "random-cells-0"},
        )
    )
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params == {"cell_0": "conv3", "cell_1": "conv1"}


def test_before_the_supernet_is_trained_operations_are_equally_likely() -> None:
    first = Counter()
    for seed in range(140):
        study = new_study(AdaBERTSampler(seed=seed), logits=None)
        study.optimize(objective, n_trials=1)
        first[tried(study)[0][0]] += 1
    assert set(first) == set(OPERATIONS)
    assert max(first.values()) < 20 + 5 * math.sqrt(140 / 7)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = new_study(AdaBERTSampler(seed=3))
    whole.optimize(objective, n_trials=12)
    url = f"sqlite:///{tmp_path}/cells.db"
    for n_trials in (5, 4, 3):
        new_study(AdaBERTSampler(seed=3), storage=url).optimize(objective, n_trials=n_trials)
    resumed = new_study(AdaBERTSampler(seed=3), storage=url)
    assert tried(resumed) == tried(whole)
    assert [trial.system_attrs[SAMPLER_SEED] for trial in resumed.trials] == [
        t.system_attrs[SAMPLER_SEED] for t in whole.trials
    ]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_on_one_database_propose_nothing_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/cells.db"
    studies = [new_study(AdaBERTSampler(temperature=0.3, seed=5), storage=url) for _ in range(3)]
    open_trials: list[tuple[Study, Trial]] = []
    for turn in range(24):
        study = studies[turn % 3]
        trial = study.ask()
        suggest(trial)
        open_trials.append((study, trial))
    assert len(set(tried(studies[0]))) == 24
    for study, trial in open_trials:
        study.tell(trial, state=TrialState.FAIL)


def test_other_parameters_are_drawn_at_random() -> None:
    study = new_study(AdaBERTSampler(seed=0))
    values: list[float] = []

    def with_rate(trial: Trial) -> tuple[float, float]:
        values.append(trial.suggest_float("rate", 0.0, 1.0))
        return objective(trial)

    study.optimize(with_rate, n_trials=30)
    assert len(set(values)) == 30
    assert min(values) < 0.3 < 0.7 < max(values)


def test_cells_are_recognised_by_name_and_choices() -> None:
    assert is_own("cell_0", CategoricalDistribution(OPERATIONS))
    assert is_own("cell_3", CategoricalDistribution(("conv1", "skip")))
    assert not is_own("cell_0", CategoricalDistribution(("conv1", "attention")))
    assert not is_own("cell_0", FloatDistribution(0, 1))
    assert not is_own("cell_a", CategoricalDistribution(OPERATIONS))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_above_0(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        AdaBERTSampler(temperature=temperature)
