"""The base class of nasopt's own samplers: a trial's parameters are proposed as a whole, once, and never twice.

Proposals are written to the database before anyone else takes them, so that workers do not do the same work; what a
trial draws depends on the seed and its number only, so that a resumed study goes on as if it had not stopped.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from abc import abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from nasopt.architecture.genotype import canonical
from nasopt.host.identity import worker_identity
from nasopt.records.names import PROPOSAL, SAMPLER_EXHAUSTED, SAMPLER_SEED, SAMPLER_WORKER
from nasopt.samplers.genotype import Genotype, Space, fit, is_own
from nasopt.samplers.history import FloatArray, History, is_fixed

_REVISIONS = 8
"""The number of times that a proposal gives way to an equal one that another worker made at the same moment."""
FOREIGN_DRAWS = 16
"""The number of children drawn where no parameter is a genotype's, so that there is no list to look through."""


def trial_seed(seed: int | None, number: int) -> int:
    """The seed of one trial, below 2^48: a hash of the study's seed and the trial's number, or fresh for None.

    It depends on nothing else, so that a resumed study goes on as if it had not stopped, and workers differ.
    """
    if seed is None:
        return secrets.randbits(48)
    return int.from_bytes(hashlib.sha256(f"nasopt:{seed}:{number}".encode()).digest()[:6], "big")


class ProposingSampler(BaseSampler):
    """Proposes whole genotypes, and no known one; a mixin for Optuna's samplers.

    A known child (see :meth:`nasopt.samplers.history.History.identity`) is never proposed. When none is left, the trial
    gets the system attribute `nasopt:exhausted` and a known point: see :func:`nasopt.samplers.history.is_exhausted`.
    State comes from the database alone. Parameters that are not a genotype's (see
    :func:`nasopt.samplers.genotype.is_own`) are left to Optuna's sampler.
    """

    _rng: LazyRandomState
    _seed: int | None

    def _start(self, seed: int | None) -> None:
        """Sets the state; subclasses call it in `__init__`, after Optuna's."""
        self._seed = seed
        self._lock = threading.RLock()
        self._history: tuple[Any, int, History] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_history")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._history = None

    @abstractmethod
    def _new_history(self, signs: FloatArray) -> History:
        """The history of a study without trials; `signs` are -1 for objectives that are maximised, else 1."""

    @abstractmethod
    def _children(
        self, study: Study, history: History, own: Space, number: int
    ) -> Iterator[tuple[int | None, Genotype]]:
        """Yields pairs of a parent's number and a child to try, at least one, until there are no more."""

    @abstractmethod
    def _draw_foreign(self, study: Study, trial: FrozenTrial, history: History, space: Space) -> dict[str, Any]:
        """Values of the space's parameters that are not the genotype's."""

    def _space(self, study: Study, history: History) -> Space:
        """The parameters to propose, by name."""
        return history.space

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # This comes first, so that a trial whose process is killed at any later moment can be told from one under way.
        study._storage.set_trial_system_attr(trial._trial_id, SAMPLER_WORKER, worker_identity())
        seed = trial.system_attrs.get(SAMPLER_SEED)  # a retried trial has one already
        if seed is None:
            seed = trial_seed(self._seed, trial.number)
            study._storage.set_trial_system_attr(trial._trial_id, SAMPLER_SEED, seed)
        self._rng.rng.seed([seed & 0xFFFFFFFF, seed >> 32])
        super().before_trial(study, trial)
        if is_fixed(trial) or PROPOSAL in trial.system_attrs:
            return
        # NOTE: the proposal is made here and not with the first parameter, so that the objective knows the parent, and
        # whether the space is exhausted, before it does anything.
        with self._lock:
            history = self._history_of(study)
            space = self._space(study, history)
            if any(not distribution.single() for distribution in space.values()):
                self._propose(study, trial, history, space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        with self._lock:
            space = self._space(study, self._history_of(study))
        # NOTE: Optuna gives a parameter with a single value that value without asking.
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        with self._lock:
            if is_fixed(trial):
                # Of what was not asked for, the genotype gets the base model's values (`sample_independent`); the rest
                # is drawn.
                return self._draw_foreign(study, trial, self._history_of(study), search_space)
            if PROPOSAL in trial.system_attrs:
                params = trial.system_attrs[PROPOSAL]["params"]
            elif search_space:  # the trial did not come through `before_trial`
                params = self._propose(study, trial, self._history_of(study), search_space)
            else:
                params = {}
        return {name: value for name, value in params.items() if name in search_space}

    def _history_of(self, study: Study, use_cache: bool = True) -> History:
        if self._history is None or self._history[0] is not study._storage or self._history[1] != study._study_id:
            signs = np.array([-1.0 if item == StudyDirection.MAXIMIZE else 1.0 for item in study.directions])
            self._history = study._storage, study._study_id, self._new_history(signs)
        history = self._history[2]
        history.refresh(study._get_trials(deepcopy=False, use_cache=use_cache))
        return history

    def _propose(self, study: Study, trial: FrozenTrial, history: History, space: Space) -> dict[str, Any]:
        """Finds a child that is not known, and writes it and its parent to the trial before anyone else takes it."""
        for _ in range(_REVISIONS):
            params, parent, key, known = self._unknown_child(study, trial, history, space)
            proposal = {"parent": parent, "params": params, "known": known}
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, proposal)
            trial.system_attrs[PROPOSAL] = proposal  # the caller's copy, which `sample_relative` gets
            if history.is_known(key, trial.number):  # no unknown child is left
                break
            # Workers that write first and look afterwards cannot both miss the other. Whether there are others is
            # part of the question, so this looks even where none was seen before.
            self._history_of(study, use_cache=False)
            if not history.is_known(key, trial.number):
                break
        if history.is_known(key, trial.number) and any(is_own(*item) for item in space.items()):
            study._storage.set_trial_system_attr(trial._trial_id, SAMPLER_EXHAUSTED, True)
        return params

    def _unknown_child(
        self, study: Study, trial: FrozenTrial, history: History, space: Space
    ) -> tuple[dict[str, Any], int | None, Hashable, int]:
        """`(params, parent, key, known)` of a child that is not known, or, if there is none, of the last one drawn.

        `known` is the number of children drawn in vain before it.
        """
        own = {name: distribution for name, distribution in space.items() if is_own(name, distribution)}
        foreign = {name: distribution for name, distribution in space.items() if name not in own}
        last: tuple[dict[str, Any], int | None, Hashable, int] | None = None
        for drawn, (parent, genotype) in enumerate(self._children(study, history, own, trial.number)):
            params = fit(canonical(genotype), own)
            if foreign:
                params |= self._draw_foreign(study, trial, history, foreign)
            key = history.identity(params, parent)
            last = params, parent, key, drawn
            if not history.is_known(key, trial.number):
                break
        assert last is not None, "`_children` ends with a known child"
        return last
