"""The fisher sampler: the ladder, then healing, then Optuna's sampler; alone, resumed and with several workers."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, RDBStorage

from nasopt.records import queries
from nasopt.records.names import LADDER
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.samplers import FisherSampler
from nasopt.samplers.history import parent_of
from nasopt.samplers.named import SamplerName, sampler_maker

SHARES = (1.0, 0.5, 0.25)
RUNGS = [{"latency_share": share, "training": "none"} for share in SHARES]


def study_of(storage: optuna.storages.BaseStorage, name: SamplerName = "tpe") -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=FisherSampler(sampler_maker(name, 4), 7, RUNGS),
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Quality falls with the share, and training is worth something; controls have no parameters."""
    if "control" in trial.user_attrs:
        return 0.0, 9.0
    share = trial.suggest_float("latency_share", 0.1, 1.0, log=True)
    training = trial.suggest_categorical("training", ["none", "distill"])
    return share + 0.1 * (training == "distill"), share


@pytest.mark.parametrize("name", ["nsga2", "tpe", "gp", "random"])
def test_the_ladder_comes_first_then_its_front_is_healed(name: SamplerName) -> None:
    study = study_of(InMemoryStorage(), name)
    study.optimize(objective, n_trials=9)
    params = [trial.params for trial in study.trials]
    assert params[:3] == RUNGS
    # The base model stays as it is; what is on the front after the ladder is healed, by number.
    assert params[3:5] == [{"latency_share": share, "training": "distill"} for share in SHARES[1:]]
    assert all(0.1 <= item["latency_share"] <= 1.0 for item in params[5:])


def test_healing_may_change_more_than_the_training() -> None:
    def with_criterion(trial: optuna.Trial) -> tuple[float, float]:
        trial.suggest_categorical("criterion", ["obs", "fisher"])
        return objective(trial)

    first = [{**rung, "criterion": "obs"} for rung in RUNGS]
    sampler = FisherSampler(sampler_maker("tpe", 4), 7, first, {"training": "distill", "criterion": "fisher"})
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    study.optimize(with_criterion, n_trials=5)
    assert [trial.params for trial in study.trials[3:]] == [
        {"latency_share": share, "training": "distill", "criterion": "fisher"} for share in SHARES[1:]
    ]


def stored_objective(trial: optuna.Trial) -> tuple[float, float]:
    """In int8 everything takes a quarter of the time and loses next to nothing, so that it dominates fp32."""
    quality, latency = objective(trial)
    is_int8 = trial.suggest_categorical("precision", ["fp32", "int8"]) == "int8"
    return quality - 0.001 * is_int8, latency / (4 if is_int8 else 1)


def test_what_is_settled_is_stored_in_other_precisions_with_its_weights() -> None:
    first = [{**rung, "precision": "fp32"} for rung in RUNGS]
    sampler = FisherSampler(sampler_maker("tpe", 4), 7, first, precisions=["int8"])
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    study.optimize(stored_objective, n_trials=8)
    steps = [
        (trial.params["latency_share"], trial.params["training"], trial.params["precision"]) for trial in study.trials
    ]
    # Each healed trial is followed by its copy, which trains nothing. What int8 dominates is healed as well.
    assert steps[3:] == [
        (1.0, "none", "int8"),
        (0.5, "distill", "fp32"),
        (0.5, "distill", "int8"),
        (0.25, "distill", "fp32"),
        (0.25, "distill", "int8"),
    ]
    assert [parent_of(trial) for trial in study.trials] == [None, None, None, 0, None, 4, None, 6]
    assert [trial.number for trial in sampler.elite(study)] == [0, 4, 6], "their weights must stay"
    assert FisherSampler(sampler_maker("tpe", 4), 7, first).elite(study) == []


def test_where_healing_made_it_no_better_the_untrained_one_is_stored_in_other_precisions() -> None:
    def spoiled(trial: optuna.Trial) -> tuple[float, float]:
        quality, latency = stored_objective(trial)
        return quality - 0.9 * (trial.params["training"] != "none"), latency

    first = [{**rung, "precision": "fp32"} for rung in RUNGS]
    sampler = FisherSampler(sampler_maker("tpe", 4), 7, first, precisions=["int8"])
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    study.optimize(spoiled, n_trials=8)
    assert [parent_of(trial) for trial in study.trials] == [None, None, None, 0, None, 1, None, 2]
    assert [(trial.params["training"], trial.params["precision"]) for trial in study.trials[3:]] == [
        ("none", "int8"),
        *[("distill", "fp32"), ("none", "int8")] * 2,
    ]


def test_what_is_not_on_the_front_is_not_healed() -> None:
    def dominated(trial: optuna.Trial) -> tuple[float, float]:
        quality, latency = objective(trial)
        return quality, 2.0 if latency == 0.5 else latency

    study = study_of(InMemoryStorage())
    study.optimize(dominated, n_trials=5)
    healed = [trial.params["latency_share"] for trial in study.trials if trial.params["training"] == "distill"]
    assert healed[0] == 0.25
    assert 0.5 not in healed


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(name: SamplerName) -> None:
    whole = study_of(InMemoryStorage(), name)
    whole.optimize(objective, n_trials=12)
    storage = InMemoryStorage()
    for count in (1, 1, 2, 3, 5):
        study_of(storage, name).optimize(objective, n_trials=count)
    assert [trial.params for trial in study_of(storage, name).trials] == [trial.params for trial in whole.trials]


def test_workers_share_the_ladder(tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db")
    first, second = study_of(storage), study_of(RDBStorage(f"sqlite:///{tmp_path}/study.db"))
    running = [worker.ask() for worker in (first, second, first)]
    values = [objective(trial) for trial in running]
    assert [value[1] for value in values] == list(SHARES)


def test_enqueued_trials_and_controls_take_no_rung() -> None:
    study = study_of(InMemoryStorage())
    study.enqueue_trial(RUNGS[0])
    study.enqueue_trial({}, user_attrs={"control": "random"})
    study.enqueue_trial({"latency_share": 0.7, "training": "distill"})
    study.enqueue_trial(RUNGS[2])
    study.optimize(objective, n_trials=5)
    assert study.trials[4].params == RUNGS[1]


def test_nsga2_counts_the_ladder_as_its_first_generation() -> None:
    study = study_of(InMemoryStorage(), "nsga2")
    study.optimize(objective, n_trials=8)
    generations = [trial.system_attrs.get("NSGAIISampler:generation") for trial in study.trials]
    assert generations == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_ladder_of_the_study_stands_for_the_general_one() -> None:
    study = study_of(InMemoryStorage())
    rungs = [{"latency_share": share, "training": "none"} for share in (0.8, 0.6)]
    StudyRecord(details={LADDER: rungs}).write_to(study)
    study.optimize(objective, n_trials=4)
    assert [trial.params for trial in study.trials[:3]] == [RUNGS[0], *rungs]
    assert study.trials[3].params == {**rungs[0], "training": "distill"}


def marked(trial: optuna.Trial) -> tuple[float, float]:
    """Untrained trials but the first are provisional; the one of the share 0.5 is screened."""
    values = objective(trial)
    if trial.params["training"] == "none" and trial.number:
        if trial.params["latency_share"] == 0.5:
            TrialRecord(screened="trial 0 is better").write_to(trial)
            raise optuna.TrialPruned
        TrialRecord(provisional=True).write_to(trial)
    return values


@pytest.mark.parametrize("name", ["nsga2", "tpe", "gp", "random"])
def test_provisional_trials_are_healed_and_screened_ones_are_not(name: SamplerName) -> None:
    study = study_of(InMemoryStorage(), name)
    study.optimize(marked, n_trials=12)
    assert study.trials[3].params == {**RUNGS[2], "training": "distill"}
    healed = [trial.params["latency_share"] for trial in study.trials if trial.params["training"] == "distill"]
    assert 0.5 not in healed
    assert all(not trial.user_attrs.get("provisional") for trial in queries.pareto_front(study))
    assert {trial.number for trial in queries.finished_trials(study)} == set(range(12))
