"""The sources of a study's latencies on this machine, and whether these compare with those that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nasopt.config.study import StudyConfig
from nasopt.errors import StudyFileError
from nasopt.measurement.sources import LatencySource, device_changes, make_sources
from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.records.trial import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def latency_sources(config: StudyConfig, method: Method) -> dict[str, LatencySource]:
    """The source of every latency objective, by its name, in their order.

    Raises:
        StudyFileError: latencies are looked up or predicted, and nothing is known of what the method's candidates are.
        MissingToolError: bitsandbytes has no kernels for a precision on this machine.
        NasoptError: a device or runtime is not here (see :func:`nasopt.measurement.sources.make_source`).
    """
    from nasopt.models.quantization import check_kernels

    sources, plan = make_sources(config, method.plan.precisions), method.plan
    for source in sources.values():
        _check_estimates(source, method)
    for precision in plan.precisions if plan.quantizer is None else ():
        for source in sources.values():
            check_kernels(precision, source.device)
    return sources


def _check_estimates(source: LatencySource, method: Method) -> None:
    """Refuses a source that cannot estimate the kinds of architectures that a method makes."""
    from nasopt.measurement.estimating import EstimatingSource

    if not isinstance(source, EstimatingSource):
        return
    if all(issubclass(kind, source.estimates) for kind in method.about.architectures):
        return
    name, latency = method.about.name, source.latency
    if latency.mode == "lut":
        raise StudyFileError(
            f"latency.mode: a look-up table knows encoders of layers, not what {name} makes; leave out "
            "`mode` and `lut`, so that latency is measured, or name a device for which it is predicted"
        )
    raise StudyFileError(
        f"latency.device: {latency.device} is not here, and the candidates of {name} are not of a kind whose latency "
        "can be predicted: set `device` to cpu or cuda"
    )


def changed_devices(
    base: FrozenTrial | None, sources: Mapping[str, LatencySource], *, measures_memory: bool
) -> list[str]:
    """The objectives in which this machine's values do not compare with the base trial's, each with the reason.

    Args:
        base: the base trial; nothing has changed before there is one.
        sources: the latency sources of this machine, by objective.
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
