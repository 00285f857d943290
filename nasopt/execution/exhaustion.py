"""Whether a search has nothing left to propose, for good.

A sampler that finds no new child has seen the candidates that have ended. Those that other workers are running may
become parents of new children, so that one of them changes the answer when it completes.
"""

from __future__ import annotations

import time

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasopt.host.pausing import stand_by
from nasopt.records import queries
from nasopt.samplers.history import is_exhausted
from nasopt.study.recovery import under_way

LOOK_SECONDS = 1.0


def has_tried_everything(study: optuna.Study) -> bool:
    """Whether the last trial that found nothing to propose has seen all there is to see."""
    empty = [trial for trial in study.get_trials(False, (TrialState.PRUNED,)) if queries.found_nothing(trial)]
    return bool(empty) and not _changed_since(study, empty[-1]) and not _others(study)


def others_have_helped(study: optuna.Study, empty: FrozenTrial) -> bool:
    """Waits while candidates are under way, until one completes.

    Args:
        empty: a trial of this process that found nothing to propose.

    Returns:
        Whether one has completed, so that another try is worth it.

    Raises:
        KeyboardInterrupt: the process was asked to end while it waited.
    """
    while not _changed_since(study, empty):
        if not _others(study):
            return _changed_since(study, empty)  # the last one may have completed between the two looks
        stand_by()
        time.sleep(LOOK_SECONDS)
    return True


def _changed_since(study: optuna.Study, empty: FrozenTrial) -> bool:
    began = empty.datetime_start
    assert began is not None
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return any(
        t.datetime_complete is None or t.datetime_complete > began for t in complete if not queries.is_control(t)
    )


def _others(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in under_way(study) if not (queries.is_control(trial) or is_exhausted(trial))]
