"""Latency of a forward pass on a device that is not here: an analytic model with few fitted constants.

The kernels of the pass come from :mod:`nasopt.measurement.predicted.transformer_cost`, their time from
:mod:`nasopt.measurement.predicted.kernel_time`, the device's abilities from its datasheet
(:mod:`nasopt.measurement.predicted.device_profiles`), and the constants from a fit to published latencies
(:mod:`nasopt.measurement.predicted.calibration`). Every value carries an interval and says that it was predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from nasopt.errors import choices
from nasopt.measurement.predicted.cell_cost import BEYOND, CellWorkload, cell_kernels
from nasopt.measurement.predicted.device_profiles import (
    ELEMENT_BYTES,
    NUMBER_FORMATS,
    DeviceProfile,
    NumberFormat,
    profiles,
)
from nasopt.measurement.predicted.fitted import Fitted, fitted
from nasopt.measurement.predicted.kernel_time import Constants, Machine, pass_ms
from nasopt.measurement.predicted.software import RuntimeNotKnownError, Software, software_of
from nasopt.measurement.predicted.transformer_cost import Floats, Kernel, KernelTable, Workload, kernels

AnyWorkload: TypeAlias = Workload | CellWorkload
"""A pass of an encoder of layers, or of a chain of cells."""

ENERGY_CLASS: dict[NumberFormat, str] = {"fp32": "fp32", "tf32": "fp32", "bf16": "fp16", "fp16": "fp16", "int8": "int8"}
"""Precisions whose operations are taken to cost the same energy."""
LEAST_DYNAMIC_POWER = 0.2
"""Part of a board's power that is left for work, however much its chip leaks."""
REFERENCE_PROCESS_NM = 7.0


@dataclass(frozen=True)
class Case:
    """One pass, on one device, with one software."""

    profile: DeviceProfile
    software: Software
    runtime: str
    precision: NumberFormat
    workload: AnyWorkload

    @property
    def family(self) -> str:
        """The name of the family of cases that share its constants."""
        return f"{self.software.name}/{self.runtime}/{self.precision}"


@dataclass(frozen=True)
class Prediction:
    """A latency that nobody measured.

    Args:
        latency_ms: The time of one forward pass of one whole batch.
        low: Lower end of the interval, in ms.
        high: Upper end of the interval, in ms.
        source: Always "predicted".
        profile: Name of the device's profile.
        runtime: The runtime's name in :mod:`nasopt.measurement.predicted.software`.
        software: The version of the runtime whose constants were taken, as that module names it.
        precision: The precision that the matrix products are computed in.
        interval_percent: The `x` of "+-x %"; the interval is from `latency_ms / (1 + x)` to `latency_ms * (1 + x)`.
        coverage: Part of the held-out latencies that lay within the interval.
        extrapolated: Whether the shape, or the precision, is beyond what was calibrated.
        beyond: Names what lies beyond it; empty if nothing does.
        note: All this in words, to be shown wherever the value is.
    """

    latency_ms: float
    low: float
    high: float
    source: str
    profile: str
    runtime: str
    software: str
    precision: str
    interval_percent: float
    coverage: float
    extrapolated: bool
    beyond: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def make_case(profile: DeviceProfile, runtime: str, precision: str, workload: AnyWorkload, source: str = "") -> Case:
    """A case that can be predicted.

    Args:
        profile: The device's profile.
        runtime: Name of the runtime.
        precision: The precision of the matrix products.
        workload: The pass.
        source: Names a version of the runtime, as the column `source` of published latencies does; default: the newest.

    Raises:
        RuntimeNotKnownError: nothing is known of the runtime, or of the precision with it on this device.
    """
    software = software_of(runtime, source)
    known = known_precisions(profile, software, runtime)
    if precision not in known:
        raise RuntimeNotKnownError(
            f"no prediction for {runtime} in {precision!r} on {profile.name}; one of {choices(known)}"
        )
    return Case(profile, software, runtime, known[known.index(precision)], workload)


def known_precisions(profile: DeviceProfile, software: Software, runtime: str) -> list[NumberFormat]:
    """The device's precisions that the runtime computes in.

    A float format without measurements borrows the constants of fp16. int8 does not: whether a runtime quantises
    activations at all, and what it leaves in floats, differs too much.
    """
    constants = fitted().constants
    return [
        name
        for name in NUMBER_FORMATS
        if name in profile.peak_tflops and (name != "int8" or f"arithmetic:{software.name}/{runtime}/int8" in constants)
    ]


def predict(case: Case) -> Prediction:
    """The latency of one case."""
    return predict_many([case])[0]


def predict_many(cases: Sequence[Case]) -> list[Prediction]:
    """The latencies of many cases, in their order."""
    found = fitted()
    table, machine = kernel_table(cases), machine_of(cases)
    milliseconds = pass_ms(table, machine, constants_of(found.constants, cases))
    return [_with_interval(case, float(value), found) for case, value in zip(cases, milliseconds, strict=True)]


def kernel_table(cases: Sequence[Case]) -> KernelTable:
    """The kernels of all cases."""
    return KernelTable.of([_kernels(case) for case in cases])


def _kernels(case: Case) -> list[Kernel]:
    fusion = case.software.fusions[case.runtime]
    if isinstance(case.workload, CellWorkload):
        return cell_kernels(case.workload, fusion)
    return kernels(case.workload, fusion)


def machine_of(cases: Sequence[Case]) -> Machine:
    """The datasheets, case by case."""
    profiles = [case.profile for case in cases]
    return Machine(
        multiprocessors=np.array([profile.multiprocessors for profile in profiles], float),
        clock_ghz=np.array([profile.boost_clock_ghz for profile in profiles]),
        peak_tflops=np.array([case.profile.peak_tflops[case.precision] for case in cases], float),
        bandwidth_gbs=np.array([profile.bandwidth_gbs for profile in profiles]),
        cache_mb=np.array([profile.l2_mb for profile in profiles]),
        power_w=np.array([profile.power_w for profile in profiles]),
        element_bytes=np.array([ELEMENT_BYTES[case.precision] for case in cases], float),
    )


def constants_of(constants: Mapping[str, float], cases: Sequence[Case]) -> Constants:
    """The fitted constants, case by case; a device that was not calibrated has no factors of its own."""
    arithmetic = _each(cases, lambda case: _arithmetic(constants, case))
    shape = len(cases)
    dynamic = _each(cases, lambda case: _energy_factor(constants, case))
    return Constants(
        arithmetic=np.minimum(arithmetic, 1.0),
        attention=np.full(shape, constants["attention"]),
        bandwidth=np.full(shape, constants["bandwidth"]),
        cache_bytes=np.full(shape, constants["cache_bytes"]),
        start_us=_each(cases, lambda case: constants[f"start_us:{case.software.name}"]),
        dispatch_us=_each(
            cases,
            lambda case: (
                constants[f"dispatch_us:{case.runtime}"]
                * constants.get(f"host:{case.profile.name}/{case.software.name}", 1.0)
            ),
        ),
        call_ms=_each(cases, lambda case: constants[f"call_ms:{case.software.name}"]),
        energy_pj=dynamic * _each(cases, lambda case: _operation_energy(constants, case)),
        byte_energy_pj=dynamic * constants["byte_energy_pj"],
    )


def _each(cases: Sequence[Case], value: Callable[[Case], float]) -> Floats:
    return np.array([value(case) for case in cases], float)


def _arithmetic(constants: Mapping[str, float], case: Case) -> float:
    borrowed = f"arithmetic:{case.software.name}/{case.runtime}/fp16"
    return constants.get(f"arithmetic:{case.family}", constants[borrowed]) * constants.get(
        f"arithmetic_factor:{case.profile.name}", 1.0
    )


def _energy_factor(constants: Mapping[str, float], case: Case) -> float:
    """The factor by which the energy of an operation counts for more where less power is left beside what leaks."""
    profile = case.profile
    static = constants["static_w"] * profile.transistors_billion * _process_scale(constants, profile)
    left: float = max(profile.power_w - static, LEAST_DYNAMIC_POWER * profile.power_w)
    return profile.power_w / left * constants.get(f"energy_factor:{profile.name}", 1.0)


def _operation_energy(constants: Mapping[str, float], case: Case) -> float:
    return constants[f"energy_pj:{ENERGY_CLASS[case.precision]}"] * _process_scale(constants, case.profile)


def _process_scale(constants: Mapping[str, float], profile: DeviceProfile) -> float:
    """Energy of anything in the device's manufacturing process, relative to the reference process."""
    return float((profile.process_nm / REFERENCE_PROCESS_NM) ** constants["process_exponent"])


def _with_interval(case: Case, milliseconds: float, found: Fitted) -> Prediction:
    beyond = _beyond(case, found)
    # A user's own file may bear the name of a profile that was calibrated.
    is_ours = profiles().get(case.profile.name) == case.profile
    calibrated = is_ours and case.profile.name in found.calibrated.get(case.family, ())
    errors = found.held_out_shape if calibrated and not beyond else found.held_out_device
    spread = errors.interval(case.family)
    percent = round(100 * spread, 1)
    note = f"predicted, {case.profile.name}, +-{100 * spread:.0f} %"
    if beyond:
        note += f", extrapolated ({choices(beyond)})"
    return Prediction(
        latency_ms=milliseconds,
        low=milliseconds / (1 + spread),
        high=milliseconds * (1 + spread),
        source="predicted",
        profile=case.profile.name,
        runtime=case.runtime,
        software=case.software.name,
        precision=case.precision,
        interval_percent=percent,
        coverage=found.coverage,
        extrapolated=bool(beyond),
        beyond=choices(beyond),
        note=note,
    )


def extents(workload: Workload) -> dict[str, tuple[int, int]]:
    """The smallest and the largest value of each size that decides whether a shape is within what was calibrated."""
    layers = workload.layers
    widths = [layer.heads * layer.head_size for layer in layers] or [0]
    neurons = [layer.ffn_size for layer in layers] or [0]
    return {
        "layers": (len(layers), len(layers)),
        "hidden_size": (workload.hidden_size, workload.hidden_size),
        "attention width": (min(widths), max(widths)),
        "ffn_size": (min(neurons), max(neurons)),
        "sequence_length": (workload.sequence_length, workload.sequence_length),
        "batch_size": (workload.batch_size, workload.batch_size),
    }


def _beyond(case: Case, found: Fitted) -> tuple[str, ...]:
    if isinstance(case.workload, CellWorkload):
        return (BEYOND,)
    ranges = found.ranges.get(case.family)
    if ranges is None:
        return ("precision",)
    mine = extents(case.workload)
    return tuple(name for name, (low, high) in ranges.items() if mine[name][0] < low or mine[name][1] > high)
