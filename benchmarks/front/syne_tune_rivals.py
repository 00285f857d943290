"""Syne Tune's multi-objective methods on the generic space.

Its schedulers are asked and told in this process (`AskTellScheduler`, its documented way to search without a backend),
so that it is not charged with a process, and a model to load, for every trial: its local backend starts one each time.
It needs the package `syne-tune`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.front.race import Race, ranges
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.loop import StepCallback

POPULATION, SAMPLE = 10, 5
"""Of regularised evolution. Its defaults, 100 and 10, are for budgets of hundreds of trials: less would be random
search throughout."""
QUARTERS = 4
"""MOASHA's unit of time is a quarter of the one epoch; its rungs are at 1, 2 and 4 of them."""
REDUCTION = 2
RUNG_EXAMPLES = 1000
"""Validation examples that a trial is judged on before it is trained in full."""
METRICS = ["error", "latency"]


class _Stopped(Exception):
    """The scheduler has stopped a trial."""


def regularized_evolution(race: Race) -> None:
    """Multi-objective regularised evolution (MO-REA): non-dominated sorting of a population that ages.

    https://syne-tune.readthedocs.io/en/latest/_apidoc/
    syne_tune.optimizer.schedulers.multiobjective.multi_objective_regularized_evolution.html
    """
    from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler
    from syne_tune.optimizer.schedulers.multiobjective.multi_objective_regularized_evolution import (
        MultiObjectiveRegularizedEvolution,
    )
    from syne_tune.optimizer.schedulers.single_fidelity_scheduler import SingleFidelityScheduler

    space, seed = _space(race), race.ground.seed
    searcher = MultiObjectiveRegularizedEvolution(
        space, population_size=POPULATION, sample_size=SAMPLE, random_seed=seed
    )
    scheduler = AskTellScheduler(SingleFidelityScheduler(space, METRICS, searcher=searcher, random_seed=seed))
    while race.left():
        trial = scheduler.ask()
        point = race.fine_tuned(trial.config)
        scheduler.tell(trial, {"error": 1 - point.quality, "latency": point.ratio})


def moasha(race: Race) -> None:
    """Multi-objective asynchronous successive halving (MOASHA) over quarters of the epoch.

    https://syne-tune.readthedocs.io/en/latest/schedulers.html; a trial that is among the worse half of those that came
    as far is stopped. A stopped trial has no quality on the whole validation split, and is no member of the front.
    """
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    space = _space(race)
    scheduler = MOASHA(
        space,
        METRICS,
        time_attr="quarter",
        max_t=QUARTERS,
        grace_period=1,
        reduction_factor=REDUCTION,
        random_seed=race.ground.seed,
    )
    number = 0
    while race.left():
        trial = Trial(number, scheduler.suggest().config, datetime.datetime.now())
        number += 1
        scheduler.on_trial_add(trial)

        def report(quarter: int, quality: float, ratio: float, trial: Any = trial) -> bool:
            result = {"quarter": quarter, "error": 1 - quality, "latency": ratio}
            return str(scheduler.on_trial_result(trial, result)) != "STOP"

        try:
            point = race.fine_tuned(trial.config, lambda model, report=report: _reporting(race, model, report))
        except _Stopped:
            continue
        result = {"quarter": QUARTERS, "error": 1 - point.quality, "latency": point.ratio}
        scheduler.on_trial_complete(trial, result)


def _reporting(race: Race, model: nn.Module, report: Callable[[int, float, float], bool]) -> StepCallback:
    """A callback that reports at the rungs before the last, and stops the training if the scheduler says so."""
    some = first_examples(race.ground.context.splits["validation"], RUNG_EXAMPLES)
    ratio = race.ground.measure(model).ratio
    model.train()

    def on_step(done: int, total: int) -> None:
        rungs = {math.ceil(quarter * total / QUARTERS): quarter for quarter in (1, REDUCTION)}
        if done not in rungs:
            return
        goes_on = report(rungs[done], race.ground.quality(model, some), ratio)
        model.train()
        if not goes_on:
            raise _Stopped

    return on_step


def first_examples(split: Any, count: int) -> EncodedSplit:
    """The first examples of a split."""
    assert isinstance(split, EncodedSplit)
    offsets = split.offsets[: count + 1]
    columns = {name: column[: int(offsets[-1])] for name, column in split.columns.items()}
    return EncodedSplit(columns, split.padding, offsets, split.labels[:count])


def _space(race: Race) -> dict[str, Any]:
    """The generic space in Syne Tune's terms; what it draws comes from NumPy's global generator, which is seeded."""
    from syne_tune.config_space import randint

    np.random.seed(race.ground.seed)
    torch.manual_seed(race.ground.seed)
    return {name: randint(*bounds) for name, bounds in ranges(race.ground).items()}
