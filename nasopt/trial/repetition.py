"""Work that a study has done before is not done again: the later trial gets the earlier one's values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.samplers.genotype import identity
from nasopt.samplers.history import parent_of
from nasopt.storage.notes import save_note


class DoneWork:
    """Complete trials of one study by what they did: genotype, training and whose weights they started from."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._seen: set[int] = set()

    def get(self, trial: optuna.Trial, params: Mapping[str, Any]) -> FrozenTrial | None:
        """The complete trial that did first what `trial`, with these parameters, would do."""
        finished = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        base = queries.base_of(trial.study)

        def work(trial: optuna.Trial | FrozenTrial, params: Mapping[str, Any]) -> Hashable:
            parent = parent_of(trial)
            return identity(params, None if base is not None and parent == base.number else parent)

        for other in finished:
            if other.number not in self._seen:
                self._seen.add(other.number)
                if other.params and not queries.is_control(other):
                    self._numbers.setdefault(work(other, other.params), other.number)
        number = self._numbers.get(work(trial, params))
        return next((other for other in finished if other.number == number), None)


def repeat(trial: optuna.Trial, known: FrozenTrial) -> tuple[float, ...]:
    """Gives a trial the values, and what belongs to them, of one that did the same work."""
    done = replace(TrialRecord.of(known), worker=None, is_base=None, retry_of=None, repeats=known.number)
    done.write_to(trial)
    for name, violation in known.constraints.items():
        trial.set_constraint(name, violation)
    save_note(trial, f"The same work as trial {known.number}: not done again.")
    return tuple(known.values)
