"""The sources of a study's latencies on this machine, and whether these compare with those that it began with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from nasopt.architecture.artifacts import ARTIFACTS, ArtifactKind
from nasopt.architecture.base import Precision
from nasopt.config.study import StudyConfig
from nasopt.errors import StudyFileError
from nasopt.measurement.sources import LatencySource, device_changes, make_sources
from nasopt.methods.base import Method, Plan
from nasopt.records import queries
from nasopt.records.trial import TrialRecord

if TYPE_CHECKING:
    import torch
    from optuna.trial import FrozenTrial


def latency_sources(config: StudyConfig, method: Method) -> dict[str, LatencySource]:
    """The source of every latency objective, by its name, in their order.

    Raises:
        StudyFileError: latencies are looked up or predicted, and nothing is known of what the method's candidates are;
            or one artifact does not serve all latencies.
        MissingToolError: bitsandbytes has no kernels for a precision on this machine.
        NasoptError: a device or runtime is not here (see :func:`nasopt.measurement.sources.make_source`).
    """
    from nasopt.models.quantization import check_kernels

    sources, plan = make_sources(config, method.plan.precisions), method.plan
    for source in sources.values():
        _check_estimates(source, method)
    _check_artifacts(config, sources, plan)
    for precision in plan.precisions if plan.quantizer is None else ():
        for source in sources.values():
            if ARTIFACTS[source.runtime][precision].storage == "bitsandbytes":
                check_kernels(precision, source.device)
    return sources


def artifact_kind(sources: Collection[LatencySource], precision: Precision) -> ArtifactKind:
    """The kind of artifact of a trial, which is one for all of a study's latencies."""
    return ARTIFACTS[next(iter(sources)).runtime][precision]


def running_device(sources: Collection[LatencySource], kind: ArtifactKind) -> torch.device:
    """The device on which the quality of an artifact is evaluated: the first latency's.

    An ONNX file for a device that is not here runs on the CPU: this machine's GPU need not be one that ONNX Runtime
    can use.
    """
    import torch

    from nasopt.measurement.estimating import EstimatingSource

    first = next(iter(sources))
    on_cpu = kind.form == "onnx" and isinstance(first, EstimatingSource)
    return torch.device("cpu") if on_cpu else first.device


def check_one_artifact(sources: Collection[LatencySource], precisions: Sequence[Precision]) -> None:
    """Refuses latencies that would need several artifacts of one trial.

    Raises:
        StudyFileError: in some precision the artifacts of two runtimes differ.
    """
    first, *others = sources
    for precision in precisions:
        mine = ARTIFACTS[first.runtime][precision]
        for other in others:
            its = ARTIFACTS[other.runtime][precision]
            if (mine.form, mine.storage) != (its.form, its.storage):
                raise StudyFileError(
                    f"latency: a trial has one artifact, but in {precision} that of {first.runtime} ({mine.words}) is "
                    f"not that of {other.runtime} ({its.words}); create a study for each, or give both the same runtime"
                )


def _check_artifacts(config: StudyConfig, sources: Mapping[str, LatencySource], plan: Plan) -> None:
    """Refuses latencies that would need several artifacts of one trial, and settings that an ONNX file cannot have.

    Raises:
        StudyFileError: see above.
        MissingExtraError: the packages that write and run ONNX files are not installed.
    """
    from nasopt.models.onnx import check_packages

    check_one_artifact(sources.values(), plan.precisions)
    first = next(iter(sources.values()))
    if ARTIFACTS[first.runtime]["fp32"].form != "onnx":
        return
    if plan.quantizer is not None:
        raise StudyFileError(
            f"method_options.quantization: your function makes torch modules, but the artifact of {first.runtime} is "
            "an ONNX file; leave it out, or choose the runtime eager"
        )
    if config.memory == "peak" and first.device.type == "cuda":
        raise StudyFileError('memory: "peak" of an ONNX file can be measured on CPUs only; choose "weights"')
    check_packages()


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
    forms = {None: "torch modules", "onnx": "an ONNX file"}
    form, began_as = artifact_kind(sources.values(), "fp32").form, None if memory is None else memory.form
    if memory is not None and (form == "onnx") != (began_as == "onnx"):
        changes.append(
            f"artifact: {forms['onnx' if form == 'onnx' else None]}, but the study began with: {forms[began_as]}"
        )
    began_on = None if memory is None else memory.device
    found = device_name(next(iter(sources.values())).device)
    if measures_memory and began_on not in (None, found):
        changes.append(f"memory_mb: measured, {found}, but the study began with: measured, {began_on}")
    return changes
