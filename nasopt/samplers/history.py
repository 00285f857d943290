"""A sampler's knowledge of a study: its elite, its search space and every child ever proposed, from the database alone.

All of it is a function of the trials in the database, computed incrementally: a new process arrives at the same state,
and a long study costs a trial no more than a short one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from nasopt.architecture.genotype import canonical
from nasopt.records.names import FIXED_PARAMS, PROPOSAL, SAMPLER_EXHAUSTED
from nasopt.records.queries import is_control, stored_parent
from nasopt.samplers.genotype import Genotype, Space, fit, identity, is_own

FloatArray: TypeAlias = NDArray[np.float64]

Preference: TypeAlias = Callable[[Sequence[FrozenTrial], FloatArray, FloatArray], FloatArray]
"""`(trials, points, violations) -> keys`: for `n` trials, points `(n, n_objectives)`, all minimised, violations `(n,)`
and keys `(n, n_keys)`. The better of two trials is the one whose row of keys comes first in lexicographic order."""

_SNAPSHOT_EVERY = 64
_NOTHING = np.zeros(0)


def parent_of(trial: BaseTrial | FrozenTrial) -> int | None:
    """The number of the trial whose weights this one starts from; None for the base model's.

    The sampler's own proposal counts first; enqueued and retried trials carry theirs in the user attribute `parent`.
    """
    proposal = _system_attrs(trial).get(PROPOSAL)
    parent = stored_parent(trial) if proposal is None else proposal["parent"]
    return None if parent is None else int(parent)


def proposed_params(trial: BaseTrial | FrozenTrial) -> dict[str, Any]:
    """The parameters that the sampler proposed, or `enqueue_trial` asked for, whether or not they are suggested yet."""
    attributes = _system_attrs(trial)
    return {**attributes.get(FIXED_PARAMS, {}), **attributes.get(PROPOSAL, {}).get("params", {})}


def is_exhausted(trial: BaseTrial | FrozenTrial) -> bool:
    """Whether the sampler found no child left to propose, so that this trial repeats a known one."""
    return bool(_system_attrs(trial).get(SAMPLER_EXHAUSTED, False))


def known_draws(trial: FrozenTrial) -> int:
    """The number of known children that the sampler drew, and did not propose, before this one."""
    return int(trial.system_attrs.get(PROPOSAL, {}).get("known", 0))


def is_fixed(trial: FrozenTrial) -> bool:
    """Whether somebody asked for this trial's parameters with `enqueue_trial`."""
    return FIXED_PARAMS in trial.system_attrs


def _system_attrs(trial: BaseTrial | FrozenTrial) -> dict[str, Any]:
    if isinstance(trial, Trial):  # its own copy is as old as the trial
        return dict(trial.storage.get_trial_system_attrs(trial._trial_id))
    return dict(getattr(trial, "system_attrs", {}))


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """The trial's parameters, and those that it is going to have."""
    return {**proposed_params(trial), **trial.params}


@dataclass(frozen=True)
class _Elite:
    """The members of an elite in order of completion; `points` are all minimised, `keys` are the preference's."""

    trials: tuple[FrozenTrial, ...]
    points: FloatArray
    violations: FloatArray
    keys: FloatArray


class EliteFold:
    """The `size` best trials, as (mu + 1) selection leaves them: trials join one by one, each time the worst goes.

    The order is that of completion (`datetime_complete`, then number), whatever the order they are seen in: when a
    trial of another worker shows up late, the trials after it join once more.
    """

    def __init__(self, size: int, preference: Preference, signs: FloatArray) -> None:
        self._size = size
        self._preference = preference
        self._signs = signs
        nobody = _Elite((), np.zeros((0, len(signs))), _NOTHING, np.zeros((0, 1)))
        self._log: list[tuple[datetime, int, FrozenTrial]] = []
        self._snapshots = [nobody]  # the elite after 0, 1 x, 2 x ... _SNAPSHOT_EVERY trials
        self._elite = nobody

    @property
    def elite(self) -> _Elite:
        return self._elite

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Lets complete trials join, except those whose values are not finite, or not as many as the objectives."""
        entries = sorted(
            (trial.datetime_complete or datetime.min, trial.number, trial)
            for trial in trials
            if len(trial.values) == len(self._signs) and np.isfinite(trial.values).all()
        )
        if not entries:
            return
        start = bisect_left(self._log, entries[0][:2], key=lambda entry: entry[:2])
        if start < len(self._log):
            start -= start % _SNAPSHOT_EVERY
            entries = sorted([*self._log[start:], *entries])
            self._elite = self._snapshots[start // _SNAPSHOT_EVERY]
            del self._log[start:], self._snapshots[start // _SNAPSHOT_EVERY + 1 :]
        for entry in entries:
            self._join(entry[2])
            self._log.append(entry)
            if len(self._log) % _SNAPSHOT_EVERY == 0:
                self._snapshots.append(self._elite)

    def _join(self, trial: FrozenTrial) -> None:
        violation = sum(value for value in trial.constraints.values() if value > 0)
        trials = (*self._elite.trials, trial)
        points = np.vstack([self._elite.points, np.asarray(trial.values) * self._signs])
        violations = np.append(self._elite.violations, violation)
        keys = self._preference(trials, points, violations)
        if len(trials) > self._size:
            worst = int(np.lexsort(keys.T[::-1])[-1])  # the last to come among equals
            if worst == len(trials) - 1:
                return
            trials = trials[:worst] + trials[worst + 1 :]
            points, violations = np.delete(points, worst, axis=0), np.delete(violations, worst)
            keys = self._preference(trials, points, violations)
        self._elite = _Elite(trials, points, violations, keys)


class History:
    """One study as its sampler sees it. Controls (trials with the user attribute `control`) are overlooked."""

    def __init__(self, fold: EliteFold) -> None:
        self._fold = fold
        self._next_number = 0
        self._open: dict[int, tuple[FrozenTrial, Hashable]] = {}  # seen, not finished yet; with its identity
        self._finished: set[Hashable] = set()
        self._skipped: list[int] = []  # finished trials that proposed nothing, ascending
        self._foreign: Space | None = None
        self._own: Space | None = None
        self._own_number = -1
        self._provisional: Space = {}
        self._blocks: dict[int, Genotype] = {}  # the blocks that each complete trial keeps
        self._origin: dict[int | None, int | None] = {}  # for trials with another one's weights, that one's number

    @property
    def elite(self) -> _Elite:
        return self._fold.elite

    @property
    def space(self) -> Space:
        """The parameters to propose, by name.

        The genotype's are those in every complete trial that has any, with the latest distribution; before there is
        such a trial, those seen in any. The others are, as in NSGA-II, those that all complete trials have in common.
        """
        own = self._provisional if self._own is None else self._own
        return dict(sorted({**(self._foreign or {}), **own}.items()))

    def refresh(self, trials: Sequence[FrozenTrial]) -> None:
        """Reads what is new in `trials`: all trials of the study, ordered by number."""
        complete = []
        for trial in self._news(trials):
            if not trial.state.is_finished():
                self._open[trial.number] = trial, self.identity(_params(trial), parent_of(trial))
                self._learn_provisional(trial)
                continue
            self._open.pop(trial.number, None)
            if is_control(trial) or not (params := _params(trial)):
                self._skipped.insert(bisect_left(self._skipped, trial.number), trial.number)
            else:
                self._finished.add(self.identity(params, parent_of(trial)))
            if is_control(trial):
                continue
            self._learn_provisional(trial)
            if trial.state == TrialState.COMPLETE:
                self._learn_space(trial)
                self._learn_origin(trial)
                complete.append(trial)
        self._fold.add(complete)

    def identity(self, params: Mapping[str, Any], parent: int | None) -> Hashable:
        """The key that is equal for trials of the same work: genotype, training, and the weights that the parent has.

        A trial that changed nothing but the precision has its parent's weights: its children are its parent's, too.
        """
        return identity(params, self._origin.get(parent, parent))

    def is_known(self, key: Hashable, number: int) -> bool:
        """Whether another trial than `number` is, was or will be the same work (see :meth:`identity`)."""
        return key in self._finished or any(key == other for _, other in self._others(number))

    def position(self, number: int) -> int:
        """The number of trials before `number` that proposed something or still may."""
        controls = sum(is_control(trial) for trial, _ in self._open.values() if trial.number < number)
        return number - bisect_left(self._skipped, number) - controls

    def _others(self, number: int) -> Iterable[tuple[FrozenTrial, Hashable]]:
        return (item for item in self._open.values() if item[0].number != number and not is_control(item[0]))

    def _news(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Trials that are new or were not finished when last seen, by number."""
        news = []
        for number in sorted(self._open):
            position = bisect_left(trials, number, key=lambda trial: trial.number)
            if position < len(trials) and trials[position].number == number:
                news.append(trials[position])
        news.extend(trials[bisect_left(trials, self._next_number, key=lambda trial: trial.number) :])
        if trials:
            self._next_number = max(self._next_number, trials[-1].number + 1)
        return news

    def _learn_provisional(self, trial: FrozenTrial) -> None:
        if self._own is None and not is_control(trial):
            self._provisional.update({n: d for n, d in trial.distributions.items() if is_own(n, d)})

    def _learn_origin(self, trial: FrozenTrial) -> None:
        parent = parent_of(trial)
        blocks = {n: d for n, d in trial.distributions.items() if is_own(n, d) and n not in ("precision", "training")}
        kept = canonical({name: trial.params[name] for name in blocks})
        self._blocks[trial.number] = kept
        inherited = fit({}, blocks) if parent is None else self._blocks.get(parent)
        if trial.params.get("training") == "none" and kept == inherited:
            self._origin[trial.number] = self._origin.get(parent, parent)

    def _learn_space(self, trial: FrozenTrial) -> None:
        own = {name: value for name, value in trial.distributions.items() if is_own(name, value)}
        foreign = {name: value for name, value in trial.distributions.items() if name not in own}
        if self._foreign is None:
            self._foreign = foreign
        else:
            self._foreign = {n: d for n, d in self._foreign.items() if foreign.get(n) == d}
        if not own:
            return
        if self._own is None:
            self._own, self._own_number = own, trial.number
            return
        latest = own if trial.number > self._own_number else self._own
        self._own = {name: latest[name] for name in self._own if name in own}
        self._own_number = max(self._own_number, trial.number)
