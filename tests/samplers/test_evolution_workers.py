"""Seeds, resumed studies, several workers: proposals do not depend on the process that asks."""

from datetime import datetime, timedelta

import numpy as np
import optuna
import pytest
from evolved_studies import ALL, DIRECTIONS, SPACE, evaluate, identities, make_space, make_study, run
from optuna.trial import TrialState

from nasopt.records.names import PROPOSAL, SAMPLER_SEED
from nasopt.samplers import GeneticSampler, is_exhausted
from nasopt.samplers.evolution import trial_seed
from nasopt.storage.rdb import open_storage, parse_url


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("seed", [0, 7])
def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(tmp_path, seed):
    whole = make_study(seed=seed)
    run(whole, 24)
    url = parse_url(f"sqlite:///{tmp_path}/resumed.db")
    for start, stop in ((0, 5), (5, 6), (6, 17), (17, 24)):
        sampler = GeneticSampler(population_size=8, mutations=ALL, seed=seed)
        study = optuna.create_study(
            storage=open_storage(url), study_name="s", directions=DIRECTIONS, sampler=sampler, load_if_exists=True
        )
        run(study, stop - start)
    assert identities(study) == identities(whole)
    assert [t.system_attrs[SAMPLER_SEED] for t in study.trials] == [trial_seed(seed, number) for number in range(24)]
    assert [t.number for t in study.sampler.elite(study)] == [t.number for t in whole.sampler.elite(whole)]


def test_seeds_depend_on_seed_and_number_only():
    seeds = {trial_seed(seed, number) for seed in range(5) for number in range(200)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**48
    assert trial_seed(None, 0) != trial_seed(None, 0)


def test_without_a_seed_the_one_used_is_recorded():
    first, second = make_study(seed=None), make_study(seed=None)
    for study in (first, second):
        run(study, 10)
    assert len({trial.system_attrs[SAMPLER_SEED] for trial in first.trials + second.trials}) == 20


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_two_samplers_on_one_database_propose_no_child_twice(tmp_path):
    url = parse_url(f"sqlite:///{tmp_path}/shared.db")
    name = make_study(storage=open_storage(url)).study_name
    workers = [
        optuna.load_study(study_name=name, storage=open_storage(url), sampler=GeneticSampler(population_size=4, seed=0))
        for _ in range(2)
    ]
    space = make_space(layers=2, heads=2, ffn=64)
    run(workers[0], 1, space)
    running = []
    for turn in range(40):  # each always has one trial under way while the other asks
        running.append((workers[turn % 2], workers[turn % 2].ask(space)))
        if len(running) > 1:
            worker, trial = running.pop(0)
            worker.tell(trial, (1.0 - 0.01 * turn, trial.params["heads_0"] + 1, trial.params["ffn_0"] + 1))
    assert len(set(identities(workers[0]))) == len(workers[0].trials)


class RacingStorage(optuna.storages.InMemoryStorage):
    """Lets another worker ask just before a proposal is written, once: both may then have drawn the same child."""

    def __init__(self):
        super().__init__()
        self.rival = None

    def set_trial_system_attr(self, trial_id, key, value):
        if key == PROPOSAL and self.rival is not None:
            rival, self.rival = self.rival, None
            rival.ask(SPACE)
        super().set_trial_system_attr(trial_id, key, value)


def test_workers_that_ask_at_the_same_moment_propose_different_children():
    collisions = 0
    for seed in range(20):
        storage = RacingStorage()
        # Two children, of other precisions: half of the pairs of draws are equal.
        arguments = {"seed": seed, "mutation_prob": 0, "crossover_prob": 0, "quantization_prob": 1}
        study = make_study(storage=storage, **arguments)
        run(study, 1)
        storage.rival = optuna.load_study(
            study_name=study.study_name, storage=storage, sampler=GeneticSampler(**arguments)
        )
        study.ask(SPACE)
        assert {trial.params["precision"] for trial in study.trials[1:]} == {"bf16", "int8"}
        assert not any(is_exhausted(trial) for trial in study.trials)
        alone = make_study(**arguments)
        run(alone, 1)
        collisions += alone.ask(SPACE).params["precision"] == study.trials[2].params["precision"]
    assert collisions > 0


def test_the_elite_is_that_of_the_database_in_whatever_order_trials_are_seen():
    start = datetime(2025, 1, 1)
    generator = np.random.default_rng(0)
    orders = [generator.permutation(300) for _ in range(3)]
    numbers = list(range(300))
    finished = generator.permutation(300)  # completion order differs from the numbers
    values = generator.random((300, 3)).tolist()
    elites = []
    for order in orders:
        sampler = GeneticSampler(population_size=10, seed=0)
        study = make_study(sampler)
        study.add_trials([optuna.create_trial(state=TrialState.WAITING) for _ in numbers])
        trials = study.get_trials(deepcopy=True)
        for chunk in np.array_split(order, 12):
            for number in chunk:
                trials[number].state = TrialState.COMPLETE
                trials[number].values = values[number]
                trials[number].datetime_complete = start + timedelta(seconds=int(finished[number]))
            history = sampler._history_of(study)
            history.refresh([optuna.trial.FrozenTrial(**vars_of(trial)) for trial in trials])
        elites.append([trial.number for trial in history.elite.trials])
    assert elites[0] == elites[1] == elites[2]
    assert len(elites[0]) == 10


def vars_of(trial):
    return {
        "number": trial.number,
        "state": trial.state,
        "value": None,
        "values": trial.values,
        "datetime_start": trial.datetime_start or trial.datetime_complete,
        "datetime_complete": trial.datetime_complete,
        "params": {},
        "distributions": {},
        "user_attrs": {},
        "system_attrs": {},
        "intermediate_values": {},
        "trial_id": trial._trial_id,
    }


def test_one_sampler_serves_one_study_after_another():
    sampler = GeneticSampler(population_size=4, seed=0)
    first, second = make_study(sampler), make_study(sampler)
    run(first, 6)
    run(second, 6)
    assert identities(first) == identities(second)


def test_threads_that_share_a_sampler():
    study = make_study(population_size=4)
    run(study, 1)

    def objective(trial):
        return evaluate({name: trial._suggest(name, distribution) for name, distribution in SPACE.items()})

    study.optimize(objective, n_trials=40, n_jobs=4)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert len(set(identities(study))) == 41
