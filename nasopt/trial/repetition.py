"""Work that a study has done before is not done again: the later trial gets the earlier one's values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.samplers.history import parent_of
from nasopt.storage.notes import save_note
from nasopt.training.candidate import Lineage
from nasopt.training.context import Context, Parent


class DoneWork:
    """Complete trials of one study by what they did, as their weight sources say it.

    Args:
        method: the study's method.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self._numbers: dict[Hashable, int] = {}
        self._seen: set[int] = set()

    def get(self, trial: optuna.Trial, params: Mapping[str, Any], context: Context) -> FrozenTrial | None:
        """The complete trial that did first what `trial`, with these parameters, would do."""
        finished = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for other in finished:
            if other.number not in self._seen:
                self._seen.add(other.number)
                if other.params.keys() == params.keys() and not queries.is_control(other):
                    self._numbers.setdefault(self._work(other, other.params, context), other.number)
        number = self._numbers.get(self._work(trial, params, context))
        return next((other for other in finished if other.number == number), None)

    def _work(self, trial: optuna.Trial | FrozenTrial, params: Mapping[str, Any], context: Context) -> Hashable:
        number = parent_of(trial)
        parent = None if number is None else Parent(number, "", Lineage())
        return self._method.weights(params, context.for_trial(trial.number, parent)).work(params)


def repeat(trial: optuna.Trial, known: FrozenTrial) -> tuple[float, ...]:
    """Gives a trial the values, and what belongs to them, of one that did the same work."""
    done = replace(TrialRecord.of(known), worker=None, is_base=None, retry_of=None, repeats=known.number)
    done.write_to(trial)
    for name, violation in known.constraints.items():
        trial.set_constraint(name, violation)
    save_note(trial, f"The same work as trial {known.number}: not done again.")
    return tuple(known.values)
