"""The genetic sampler in a study with a ladder: what comes when, with workers and after failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from nasopt.records import queries
from nasopt.records.names import LADDER
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.samplers.evolution import Parent
from nasopt.samplers.genetic import GeneticSampler, GeneticVariation
from nasopt.samplers.history import parent_of
from nasopt.samplers.mutations import remove_any_heads, remove_ffn, restore

FULL = {"layer_0": 1, "heads_0": 4, "ffn_0": 128, "precision": "fp32", "training": "none"}
RUNGS = [{**FULL, "heads_0": heads} for heads in (3, 2, 1)]


def study_of(storage: BaseStorage, **options: Any) -> optuna.Study:
    study = optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=GeneticSampler(**{"population_size": 8, "seed": 1, **options}),
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )
    StudyRecord(details={LADDER: RUNGS}).write_to(study)
    return study


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "layer_0": trial.suggest_int("layer_0", 0, 1),
        "heads_0": trial.suggest_int("heads_0", 0, 4),
        "ffn_0": trial.suggest_int("ffn_0", 0, 128, step=64),
        "precision": trial.suggest_categorical("precision", ["fp32", "bf16"]),
        "training": trial.suggest_categorical("training", ["none", "finetune", "distill"]),
    }


def objective(trial: optuna.Trial) -> tuple[float, float]:
    params = suggest(trial)
    if trial.number == 0:
        TrialRecord(is_base=True).write_to(trial)
    return params["heads_0"] / 4, params["heads_0"] + params["ffn_0"] / 64


def test_the_ladder_comes_first_and_then_its_healed_children() -> None:
    study = study_of(InMemoryStorage())
    study.optimize(objective, n_trials=10)
    base, *trials = study.trials
    assert base.params == FULL
    assert [(trial.params, parent_of(trial)) for trial in trials[:3]] == [(rung, 0) for rung in RUNGS]
    healed = [{**rung, "training": "distill"} for rung in RUNGS]
    assert [(trial.params, parent_of(trial)) for trial in trials[3:6]] == list(zip(healed, (1, 2, 3), strict=True))
    assert len({(parent_of(trial), *sorted(trial.params.items())) for trial in study.trials}) == 10


def test_only_rungs_that_completed_have_healed_children() -> None:
    def failing(trial: optuna.Trial) -> tuple[float, float]:
        values = objective(trial)
        return (float("nan"),) * 2 if trial.number == 2 else values

    study = study_of(InMemoryStorage())
    study.optimize(failing, n_trials=6)
    assert [parent_of(trial) for trial in study.trials[4:6]] == [1, 3]


def test_workers_share_the_ladder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study_of(RDBStorage(url)).optimize(objective, n_trials=1)
    first, second = study_of(RDBStorage(url)), study_of(RDBStorage(url))
    running = [worker.ask() for worker in (first, second, first)]
    assert [suggest(trial) for trial in running] == RUNGS


def test_where_nothing_is_inherited_only_crossover_trains_and_no_genotype_comes_twice() -> None:
    study = study_of(InMemoryStorage(), inherits=False, mutations=[remove_any_heads, remove_ffn, restore])
    study.optimize(objective, n_trials=24)
    _, *trials = study.trials
    assert [trial.params for trial in trials[:6]] == [*RUNGS, *({**rung, "training": "distill"} for rung in RUNGS)]
    assert {parent_of(trial) for trial in study.trials} == {None}
    assert {trial.params["training"] for trial in trials[6:]} == {"none", "distill"}
    assert len({tuple(sorted(trial.params.items())) for trial in study.trials}) == 24
    precisions = {trial.params["precision"] for trial in trials[6:]}
    assert precisions == {"fp32", "bf16"}


def test_a_change_of_precision_alone_trains_what_its_parent_was_trained_for() -> None:
    space: dict[str, Any] = {name: IntDistribution(0, FULL[name]) for name in ("heads_0", "ffn_0")}  # type: ignore[arg-type]
    space["precision"] = CategoricalDistribution(["fp32", "bf16"])
    space["training"] = CategoricalDistribution(["none", "finetune", "distill"])
    parent = Parent(None, {"heads_0": 2, "ffn_0": 64, "precision": "fp32", "training": "distill"})
    vary = GeneticVariation((remove_any_heads,), 0, 1, 0, inherits=False)
    assert vary(parent, space, np.random.RandomState(0)) == {**parent.genotype, "precision": "bf16"}


def test_provisional_rungs_are_healed_and_screened_ones_are_not() -> None:
    def marked(trial: optuna.Trial) -> tuple[float, float]:
        values = objective(trial)
        if trial.number == 2:
            TrialRecord(screened="trial 0 is better").write_to(trial)
            raise optuna.TrialPruned
        if trial.number in (1, 3):
            TrialRecord(provisional=True).write_to(trial)
        return values

    study = study_of(InMemoryStorage())
    study.optimize(marked, n_trials=20)
    assert [parent_of(trial) for trial in study.trials[4:6]] == [1, 3]
    assert 2 not in [parent_of(trial) for trial in study.trials]
    assert {1, 3} <= {trial.number for trial in queries.complete_trials(study)}
    assert not {1, 3} & {trial.number for trial in queries.pareto_front(study)}
