"""Fits the constants of the latency model to published latencies, and finds the errors on those left out.

The fit is least squares on the logarithm of latency, with a robust loss: the published tables hold some shapes twice,
measured under conditions they do not name, up to 1.5 times apart. Every constant has a prior (a log-normal around a
physically plausible value), and a device's own factors have one around 1: they take what the datasheet cannot explain,
and a device without them still has a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasopt.measurement.predicted.device_profiles import NUMBER_FORMATS, find_profile
from nasopt.measurement.predicted.fitted import Fitted, GroupErrors, HeldOut
from nasopt.measurement.predicted.kernel_time import pass_ms
from nasopt.measurement.predicted.model import Case, constants_of, extents, kernel_table, machine_of
from nasopt.measurement.predicted.shapes import ShapesFileError, read_shapes
from nasopt.measurement.predicted.software import SOFTWARE, RuntimeNotKnownError, software_of
from nasopt.measurement.predicted.transformer_cost import Floats, Workload

COVERAGE = 0.9
NOISE = 0.08
"""Standard deviation of the logarithm of a published latency about the model."""
ROBUST_SCALE = 2.0
"""Deviations beyond which residuals count less than their square."""
MAX_EVALUATIONS = 40

PRIORS: dict[str, tuple[float, float]] = {
    "attention": (0.4, 0.7),
    "bandwidth": (0.8, 0.1),
    "cache_bytes": (48.0, 0.4),
    "byte_energy_pj": (60.0, 0.4),
    "static_w": (1.2, 0.4),
    "process_exponent": (0.9, 0.2),
    "energy_pj:fp16": (1.7, 0.3),
    "energy_pj:int8": (0.8, 0.3),
    "energy_pj:fp32": (6.0, 0.5),
}
"""The value of each constant and the standard deviation of its logarithm. `static_w` is for 10^9 transistors, and
energies are for 7 nm."""
ARITHMETIC, ARITHMETIC_UNFUSED, ARITHMETIC_SD = 0.8, 0.4, 0.1
START_US, START_SD = 2.5, 0.5
CALL_MS, CALL_SD = 0.1, 1.0
DISPATCH_US = {"tensorrt": 5.0, "onnxruntime+tensorrt": 5.0}
DISPATCH_FRAMEWORK_US, DISPATCH_SD = 10.0, 0.7
FACTOR_SD, HOST_SD = 0.25, 0.5


@dataclass(frozen=True)
class Sample:
    """A published latency."""

    case: Case
    latency_ms: float

    @property
    def shape(self) -> tuple[int, int]:
        """The number of layers of the model, and its hidden size."""
        return len(self.workload.layers), self.workload.hidden_size

    @property
    def workload(self) -> Workload:
        """The pass: published latencies are those of encoders of layers."""
        assert isinstance(self.case.workload, Workload)
        return self.case.workload

    @property
    def device(self) -> str:
        return self.case.profile.name

    @property
    def family(self) -> str:
        return self.case.family


@dataclass(frozen=True)
class Held:
    """Samples that a fit was not made on, with the latencies that it predicts for them in ms, shape `(n_samples,)`."""

    samples: list[Sample]
    predicted_ms: Floats

    @property
    def measured_ms(self) -> Floats:
        return np.array([sample.latency_ms for sample in self.samples])

    @property
    def log_ratio(self) -> Floats:
        return np.asarray(np.log(self.predicted_ms / self.measured_ms))

    def where(self, chosen: Callable[[Sample], bool]) -> Held:
        """The samples that `chosen` picks."""
        kept = [index for index, sample in enumerate(self.samples) if chosen(sample)]
        return Held([self.samples[index] for index in kept], self.predicted_ms[kept])


def read_samples(path: Path) -> list[Sample]:
    """The published latencies in a CSV file (columns of :mod:`nasopt.measurement.predicted.shapes`, and `latency_ms`).

    Raises:
        NasoptError: the file, or a device, runtime or precision in it, is not known.
    """
    samples = []
    for row in read_shapes(path, measured=True):
        profile, software = find_profile(row.device), software_of(row.runtime, row.source)
        precision = next((name for name in NUMBER_FORMATS if name == row.precision), None)
        if precision is None or precision not in profile.peak_tflops:
            raise RuntimeNotKnownError(f"{path}: row {row.number}: {profile.name} does not compute in {row.precision}")
        if row.latency_ms is None:
            raise ShapesFileError(f"{path}: row {row.number}: there is no latency")
        samples.append(Sample(Case(profile, software, row.runtime, precision, row.workload), row.latency_ms))
    return samples


def fit(samples: Sequence[Sample]) -> dict[str, float]:
    """The constants that fit `samples` best, by name."""
    from scipy.optimize import least_squares

    cases = [sample.case for sample in samples]
    table, machine = kernel_table(cases), machine_of(cases)
    target = np.log([sample.latency_ms for sample in samples])
    priors = priors_for(samples)
    names = list(priors)
    centre = np.log([value for value, _ in priors.values()])
    spread = np.array([deviation for _, deviation in priors.values()])

    def residuals(logs: Floats) -> Floats:
        constants = dict(zip(names, np.exp(logs).tolist(), strict=True))
        errors = np.log(pass_ms(table, machine, constants_of(constants, cases))) - target
        return np.concatenate([errors / NOISE, (logs - centre) / spread])

    upper = np.array([0.0 if _is_efficiency(name) else math.inf for name in names])
    found = least_squares(
        residuals,
        centre,
        bounds=(-math.inf, upper),
        loss="soft_l1",
        f_scale=ROBUST_SCALE,
        max_nfev=MAX_EVALUATIONS,
    )
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def priors_for(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """The prior of every constant that software has, and of the factors of the devices in `samples`."""
    priors = dict(PRIORS)
    for software in SOFTWARE:
        priors[f"start_us:{software.name}"] = (START_US, START_SD)
        priors[f"call_ms:{software.name}"] = (CALL_MS, CALL_SD)
        for runtime in software.fusions:
            priors[f"dispatch_us:{runtime}"] = (DISPATCH_US.get(runtime, DISPATCH_FRAMEWORK_US), DISPATCH_SD)
            usual = ARITHMETIC_UNFUSED if runtime == "onnxruntime" else ARITHMETIC
            priors[f"arithmetic:{software.name}/{runtime}/fp16"] = (usual, ARITHMETIC_SD)
    for sample in samples:
        case = sample.case
        priors.setdefault(f"arithmetic:{case.family}", (ARITHMETIC, ARITHMETIC_SD))
        for factor in ("arithmetic_factor", "energy_factor"):
            priors[f"{factor}:{sample.device}"] = (1.0, FACTOR_SD)
        priors[f"host:{sample.device}/{case.software.name}"] = (1.0, HOST_SD)
    return priors


def _is_efficiency(name: str) -> bool:
    return name.partition(":")[0] in ("arithmetic", "attention", "bandwidth")


def predicted_ms(constants: Mapping[str, float], samples: Sequence[Sample]) -> Floats:
    """The latencies that constants predict for samples, in ms, shape `(n_samples,)`."""
    cases = [sample.case for sample in samples]
    return pass_ms(kernel_table(cases), machine_of(cases), constants_of(constants, cases))


def held_out_shapes(samples: Sequence[Sample]) -> Held:
    """Leaves each model shape out, on every device; predicts it where the device has others with that software.

    A device with a single shape has nothing left to fit on, and belongs to :func:`held_out_devices`.
    """

    def known(sample: Sample, rest: Sequence[Sample]) -> bool:
        return any(sample.device == other.device and sample.family == other.family for other in rest)

    return _leave_one_out(samples, lambda sample: sample.shape, known)


def held_out_devices(samples: Sequence[Sample]) -> Held:
    """Leaves each device out; predicts it where others have measurements of the same software and precision."""

    def known(sample: Sample, rest: Sequence[Sample]) -> bool:
        return any(sample.family == other.family for other in rest)

    return _leave_one_out(samples, lambda sample: sample.device, known)


def _leave_one_out(
    samples: Sequence[Sample],
    key: Callable[[Sample], object],
    known: Callable[[Sample, Sequence[Sample]], bool],
) -> Held:
    held: list[Sample] = []
    values: list[Floats] = []
    for left_out in dict.fromkeys(map(key, samples)):
        rest = [sample for sample in samples if key(sample) != left_out]
        test = [sample for sample in samples if key(sample) == left_out and known(sample, rest)]
        if test:
            held += test
            values.append(predicted_ms(fit(rest), test))
    return Held(held, np.concatenate(values) if values else np.zeros(0))


def errors_of(held: Held) -> GroupErrors:
    """The errors of predictions, of which there must be at least one."""
    errors = np.abs(np.expm1(held.log_ratio))
    # NOTE: the rank that makes the interval valid for one more exchangeable value (split conformal prediction: Lei et
    # al., JASA 113(523), 2018), where there are enough.
    rank = min(math.ceil((len(errors) + 1) * COVERAGE), len(errors))
    interval = math.expm1(float(np.sort(np.abs(held.log_ratio))[rank - 1]))
    return GroupErrors(
        count=len(errors),
        median=round(float(np.median(errors)), 4),
        p95=round(float(np.quantile(errors, 0.95)), 4),
        tau=rank_correlation(held),
        interval=round(interval, 4),
    )


def rank_correlation(held: Held) -> float | None:
    """Kendall's tau of each device's values, averaged by their number; None where no device has two."""
    from scipy.stats import kendalltau

    total, weight = 0.0, 0
    for device in dict.fromkeys(sample.device for sample in held.samples):
        mine = of_device(held, device)
        tau = kendalltau(mine.predicted_ms, mine.measured_ms).statistic if len(mine.samples) > 1 else math.nan
        if not math.isnan(tau):
            total, weight = total + tau * len(mine.samples), weight + len(mine.samples)
    return round(total / weight, 4) if weight else None


def summary(held: Held) -> HeldOut:
    """Errors by family."""
    families = sorted({sample.family for sample in held.samples})
    return HeldOut(all=errors_of(held), groups={family: errors_of(of_family(held, family)) for family in families})


def of_family(held: Held, family: str) -> Held:
    """The samples of a family, which share their constants."""
    return held.where(lambda sample: sample.family == family)


def of_device(held: Held, device: str) -> Held:
    """The samples on a device."""
    return held.where(lambda sample: sample.device == device)


def calibrate(samples: Sequence[Sample], shapes: Held, devices: Held, *, date: str, fitted_on: str) -> Fitted:
    """The fit to all samples, with the errors of fits that left some out.

    Args:
        samples: all of them.
        shapes: predictions for model shapes that were left out.
        devices: predictions for devices that were left out.
        date: the day of the fit.
        fitted_on: names the samples, in words.
    """
    families = sorted({sample.family for sample in samples})
    by_family = {family: [sample for sample in samples if sample.family == family] for family in families}
    return Fitted(
        date=date,
        fitted_on=fitted_on,
        rows=len(samples),
        coverage=COVERAGE,
        constants={name: float(f"{value:.5g}") for name, value in sorted(fit(samples).items())},
        calibrated={family: tuple(sorted({sample.device for sample in mine})) for family, mine in by_family.items()},
        ranges={family: _ranges(mine) for family, mine in by_family.items()},
        held_out_shape=summary(shapes),
        held_out_device=summary(devices),
    )


def _ranges(samples: Sequence[Sample]) -> dict[str, tuple[int, int]]:
    every = [extents(sample.workload) for sample in samples]
    return {name: (min(item[name][0] for item in every), max(item[name][1] for item in every)) for name in every[0]}
