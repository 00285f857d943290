from datetime import datetime, timedelta

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nasopt.architecture.genotype import canonical
from nasopt.records.names import PROPOSAL, SAMPLER_SEED
from nasopt.samplers import GeneticSampler, is_exhausted, parent_of, proposed_params
from nasopt.samplers.evolution import tournament, trial_seed
from nasopt.samplers.genotype import fit
from nasopt.samplers.mutations import MUTATIONS
from nasopt.storage.rdb import open_storage, parse_url

DIRECTIONS = ["maximize", "minimize", "minimize"]


def make_space(layers=3, heads=4, ffn=256):
    space = {}
    for layer in range(layers):
        space[f"layer_{layer}"] = IntDistribution(0, 1)
        space[f"heads_{layer}"] = IntDistribution(0, heads)
        space[f"ffn_{layer}"] = IntDistribution(0, ffn, step=64)
    space["precision"] = CategoricalDistribution(["fp32", "bf16", "int8"])
    space["training"] = CategoricalDistribution(["none", "finetune", "distill"])
    return space


SPACE = make_space()
FULL = fit({}, SPACE)
ALL = tuple(MUTATIONS[name] for name in MUTATIONS if name != "quantize")


def evaluate(params):
    layers = sum(name.startswith("layer_") for name in params)
    size = 0.0
    for i in range(layers):
        size += params[f"layer_{i}"] * (1 + params[f"heads_{i}"] + params[f"ffn_{i}"] / 64 * (1 + 0.1 * i))
    cost = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}[params["precision"]]
    bonus = {"none": 0.0, "finetune": 0.01, "distill": 0.02}[params["training"]]
    return float(np.tanh(size / 10) - 0.02 / cost + bonus), size + 1, (size + 3) * cost


def run(study, trials, space=SPACE):
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, evaluate(trial.params))


def make_study(sampler=None, storage=None, **arguments):
    sampler = sampler or GeneticSampler(**{"population_size": 8, "mutations": ALL, "seed": 0, **arguments})
    return optuna.create_study(storage=storage, directions=DIRECTIONS, sampler=sampler)


def identities(study):
    return [(parent_of(trial), tuple(sorted(canonical(trial.params).items()))) for trial in study.trials]


def test_an_empty_study_starts_with_the_full_genotype():
    study = make_study()
    run(study, 1)
    assert study.trials[0].params == FULL
    assert parent_of(study.trials[0]) is None


def test_children_have_parents_among_the_completed_trials_and_differ_from_them():
    study = make_study()
    run(study, 60)
    for trial in study.trials[1:]:
        parent = study.trials[parent_of(trial)]
        assert parent.number < trial.number
        assert trial.params == canonical(trial.params)
        assert trial.params["training"] == "distill" or trial.params != parent.params
        assert proposed_params(trial) == trial.params
        if trial.params["training"] == "none":
            assert {name for name in FULL if trial.params[name] != parent.params[name]} <= {"precision", "training"}


def test_the_proposal_stands_in_the_trial_before_any_parameter_does():
    study = make_study()
    run(study, 3)
    trial = study.ask()
    assert trial.params == {}
    assert proposed_params(trial).keys() == SPACE.keys()
    parent = parent_of(trial)
    assert parent in (0, 1, 2)
    params = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
    assert params == proposed_params(trial)
    assert parent_of(trial) == parent


def test_never_proposes_a_known_child():
    study = make_study(population_size=4)
    space = make_space(layers=3, heads=2, ffn=64)
    run(study, 500, space)
    assert len(set(identities(study))) == 500
    assert not any(is_exhausted(trial) for trial in study.trials)


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


def test_late_trials_become_parents():
    study = make_study(population_size=4)
    run(study, 1)
    late = study.ask(SPACE)
    run(study, 60)
    study.tell(late, (9.0, 0.1, 0.1))  # dominates everything
    assert late.number in [trial.number for trial in study.sampler.elite(study)]
    run(study, 30)
    assert late.number in {parent_of(trial) for trial in study.trials[61:]}


def test_a_dropped_member_never_returns():
    study = make_study(population_size=3)
    seen, dropped = set(), set()
    for _ in range(60):
        run(study, 1)
        elite = {trial.number for trial in study.sampler.elite(study)}
        assert not elite & dropped
        dropped |= seen - elite
        seen |= elite
    assert dropped


def test_the_enqueued_base_model_becomes_a_parent_and_is_left_alone():
    study = make_study()
    study.enqueue_trial(FULL, user_attrs={"base": True})
    run(study, 2)
    base, child = study.trials
    assert base.params == FULL
    assert PROPOSAL not in base.system_attrs
    assert parent_of(base) is None
    assert parent_of(child) == 0


def test_enqueued_trials_keep_their_parent_and_get_the_base_models_values_for_the_rest():
    study = make_study()
    run(study, 5)
    study.enqueue_trial({"layer_1": 0}, user_attrs={"parent": 3})
    run(study, 1)
    assert parent_of(study.trials[5]) == 3
    assert study.trials[5].params == FULL | {"layer_1": 0}


def test_an_enqueued_child_is_known_while_it_waits():
    reference = make_study()
    run(reference, 2)
    wanted = reference.trials[1].params
    study = make_study()
    study.enqueue_trial(FULL)
    run(study, 1)
    study.enqueue_trial(wanted, user_attrs={"parent": 0})
    popped = study.ask()  # the waiting trial; the next one is drawn as the reference's trial 1 was, and must differ
    study._storage.set_trial_system_attr(study.ask()._trial_id, "seen", True)
    assert parent_of(popped) == 0
    assert proposed_params(popped) == wanted
    assert proposed_params(study.trials[2]) != wanted


def test_optunas_retry_of_a_stale_trial_repeats_its_proposal():
    study = make_study()
    run(study, 4)
    lost = study.ask()
    study.tell(lost, state=TrialState.FAIL)
    failed = study.trials[4]
    attributes = {**failed.system_attrs, "failed_trial": 4, "retry_history": [4]}
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs=attributes))
    run(study, 1)
    assert study.trials[5].params == proposed_params(failed)
    assert parent_of(study.trials[5]) == parent_of(failed)


def test_controls_failures_and_infinities_are_no_parents():
    study = make_study()
    run(study, 1)
    study.enqueue_trial(FULL | {"heads_0": 1}, user_attrs={"control": "random"})
    study.tell(study.ask(SPACE), (9.0, 0.1, 0.1))
    with pytest.warns(UserWarning, match="nan is not acceptable"):
        study.tell(study.ask(SPACE), (float("nan"), 1.0, 1.0))
    study.tell(study.ask(SPACE), state=TrialState.PRUNED)
    study.tell(study.ask(SPACE), (float("inf"), 1.0, 1.0))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED", "COMPLETE"]
    assert [trial.number for trial in study.sampler.elite(study)] == [0]
    run(study, 20)
    assert not {1, 2, 3, 4} & {parent_of(trial) for trial in study.trials}


def test_exhaustion_is_said_and_not_raised():
    space = make_space(layers=1, heads=1, ffn=64)
    study = make_study(population_size=2, mutations=[MUTATIONS["remove_any_heads"]], quantization_prob=0.2)
    for _ in range(80):
        trial = study.ask(space)
        # The base model stays best: its children are tried one by one, then there is nothing left.
        study.tell(trial, (1.0, 1.0, 1.0) if trial.number == 0 else (0.0, 2.0 + trial.number, 2.0))
        if is_exhausted(trial):
            break
    assert is_exhausted(trial)
    assert is_exhausted(study.trials[-1])
    known = identities(study)
    assert known[-1] in known[:-1]
    assert len(set(known[:-1])) == len(known) - 1
    # 2 head counts x 3 precisions x distilled or not, without the parent's own copy, for each of the two in the elite:
    # nothing that one step can reach was left out.
    children = [identity for identity in known[:-1] if identity[0] == 0]
    assert len(children) == 2 * 3 * 2 - 1


def test_constraints_come_first():
    study = make_study(population_size=2)
    for violation, quality in ((0.0, 0.1), (3.0, 0.9), (1.0, 0.9), (-1.0, 0.2)):
        trial = study.ask(SPACE)
        trial.set_constraint("size", violation)
        study.tell(trial, (quality, 1.0, 1.0))
        if trial.number == 2:
            assert [member.number for member in study.sampler.elite(study)] == [0, 2]
    # Trial 3 dominates trial 0, and both are feasible.
    assert [member.number for member in study.sampler.elite(study)] == [0, 3]


def test_a_mixed_space_is_searched_by_both_kinds_of_operators():
    space = {**SPACE, "lr": FloatDistribution(1e-5, 1e-2, log=True), "optimizer": CategoricalDistribution(["a", "b"])}
    study = make_study(population_size=5)
    for _ in range(60):
        trial = study.ask(space)
        quality, *costs = evaluate(trial.params)
        study.tell(trial, (quality - abs(np.log10(trial.params["lr"]) + 3) * 0.1, *costs))
    assert study.trials[0].params.keys() == space.keys()
    assert {name: study.trials[0].params[name] for name in SPACE} == FULL
    late = study.trials[30:]
    assert all(parent_of(trial) is not None for trial in late)
    rates = [trial.params["lr"] for trial in late]
    assert len(set(rates)) < len(rates)  # crossover copies values, random sampling would not
    assert len(set(rates)) > 1


def test_conditional_and_single_valued_parameters_do_no_harm():
    study = make_study(population_size=4)

    def objective(trial):
        params = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
        trial.suggest_categorical("fixed", ["only"])
        if params["layer_0"]:
            trial.suggest_float("extra", 0, 1)
        return evaluate(params)

    study.optimize(objective, n_trials=40)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert all("fixed" in proposed_params(trial) for trial in study.trials[1:])


def test_changed_ranges_are_followed():
    study = make_study()
    run(study, 10)
    narrow = {**SPACE, "heads_0": IntDistribution(0, 2)}
    run(study, 30, narrow)
    heads = [trial.params["heads_0"] for trial in study.trials[11:]]
    assert max(heads) <= 2
    assert len(set(heads)) > 1  # still evolved, not stuck at the full value


def test_children_of_the_base_model_before_any_trial_is_complete():
    study = make_study()
    first = study.ask(SPACE)  # still running
    second = study.ask(SPACE)
    assert first.params == FULL
    assert second.params != FULL
    assert parent_of(second) is None


def test_one_sampler_serves_one_study_after_another():
    sampler = GeneticSampler(population_size=4, seed=0)
    first, second = make_study(sampler), make_study(sampler)
    run(first, 6)
    run(second, 6)
    assert identities(first) == identities(second)


def test_a_single_objective_works():
    study = optuna.create_study(direction="minimize", sampler=GeneticSampler(population_size=4, mutations=ALL, seed=0))
    for _ in range(40):
        trial = study.ask(SPACE)
        study.tell(trial, evaluate(trial.params)[2])
    assert study.best_value < study.trials[0].value


def test_threads_that_share_a_sampler():
    study = make_study(population_size=4)
    run(study, 1)

    def objective(trial):
        return evaluate({name: trial._suggest(name, distribution) for name, distribution in SPACE.items()})

    study.optimize(objective, n_trials=40, n_jobs=4)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert len(set(identities(study))) == 41


def test_tournament_prefers_the_better_key():
    keys = np.array([[1.0, 0.0], [0.0, -2.0], [0.0, -1.0]])
    rng = np.random.RandomState(0)
    wins = np.bincount([tournament(keys, rng) for _ in range(9000)], minlength=3) / 9000
    # The best of two independent draws out of three: 5/9, 3/9 and 1/9.
    np.testing.assert_allclose(wins, [1 / 9, 5 / 9, 3 / 9], atol=0.02)
