"""The choice of parents among completed, enqueued, repeated, failed and infeasible trials."""

import numpy as np
import optuna
import pytest
from evolved_studies import FULL, SPACE, make_study, run
from optuna.trial import TrialState

from nasopt.records.names import PROPOSAL
from nasopt.samplers import parent_of, proposed_params
from nasopt.samplers.evolution import tournament


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


def test_tournament_prefers_the_better_key():
    keys = np.array([[1.0, 0.0], [0.0, -2.0], [0.0, -1.0]])
    rng = np.random.RandomState(0)
    wins = np.bincount([tournament(keys, rng) for _ in range(9000)], minlength=3) / 9000
    # The best of two independent draws out of three: 5/9, 3/9 and 1/9.
    np.testing.assert_allclose(wins, [1 / 9, 5 / 9, 3 / 9], atol=0.02)
