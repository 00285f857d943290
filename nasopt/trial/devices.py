"""Whether the values of this machine compare with those that a study began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nasopt.measurement.sources import LatencySource, device_changes
from nasopt.records import queries
from nasopt.records.trial import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def changed_devices(
    base: FrozenTrial | None, sources: Mapping[str, LatencySource], *, measures_memory: bool
) -> list[str]:
    """In which objectives this machine's values do not compare with the base trial's, and why.

    Args:
        base: the base trial; nothing has changed before there is one.
        sources: of latencies on this machine, by objective.
        measures_memory: whether the objective `memory_mb` is measured, and not the size of the weights.
    """
    from nasopt.measurement.device import device_name

    if base is None:
        return []
    changes = device_changes(queries.latencies_of(base), sources)
    memory = TrialRecord.of(base).memory
    began_on = None if memory is None else memory.device
    found = device_name(next(iter(sources.values())).device)
    if measures_memory and began_on not in (None, found):
        changes.append(f"memory_mb: measured, {found}, but the study began with: measured, {began_on}")
    return changes
