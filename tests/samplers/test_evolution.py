"""Proposals of the genetic sampler, and its spaces."""

import numpy as np
import optuna
from evolved_studies import ALL, FULL, SPACE, evaluate, identities, make_space, make_study, run
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nasopt.architecture.genotype import canonical
from nasopt.samplers import GeneticSampler, is_exhausted, parent_of, proposed_params
from nasopt.samplers.mutations import MUTATIONS


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


def test_a_single_objective_works():
    study = optuna.create_study(direction="minimize", sampler=GeneticSampler(population_size=4, mutations=ALL, seed=0))
    for _ in range(40):
        trial = study.ask(SPACE)
        study.tell(trial, evaluate(trial.params)[2])
    assert study.best_value < study.trials[0].value
