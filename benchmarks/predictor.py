"""Fit the latency model to published latencies, and predict those that a fit has not seen.

    python benchmarks/predictor.py shared/data/latency/published.csv
    python benchmarks/predictor.py shared/data/latency/published.csv --write

*Shape*: every model shape is left out on all devices, and predicted where the device still has others with the same
software. *Device*: a device is left out, so that only its
datasheet is known. Tau is Kendall's, within each device, averaged over devices by their number of rows. `--write` puts
the constants of the fit to all rows, and these errors, into the package.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from nasopt.measurement.predicted import calibration
from nasopt.measurement.predicted.calibration import Held
from nasopt.measurement.predicted.fitted import FILE, Fitted

TARGET = Path(__file__).parents[1] / "nasopt" / "measurement" / "predicted" / "profiles" / FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="published latencies")
    parser.add_argument("--write", action="store_true", help="keep the constants")
    arguments = parser.parse_args()
    started = time.perf_counter()
    samples = calibration.read_samples(arguments.csv)
    shapes, devices = calibration.held_out_shapes(samples), calibration.held_out_devices(samples)
    sources = sorted({sample.case.software.source for sample in samples})
    fitted = calibration.calibrate(
        samples,
        shapes,
        devices,
        date=datetime.now(UTC).date().isoformat(),
        fitted_on=f"{len(samples)} published latencies of BERT shapes: {', '.join(sources)}",
    )
    if arguments.write:
        TARGET.write_text(as_text(fitted), encoding="utf-8")
    everything = Held(samples, calibration.predicted_ms(fitted.constants, samples))
    for title, held in (("Seen", everything), ("Held-out shape", shapes), ("Held-out device", devices)):
        print(f"\n## {title}\n")
        report(held, by_device=title == "Held-out device")
    print(f"\n{len(fitted.constants)} constants, {time.perf_counter() - started:.0f} s")


def as_text(fitted: Fitted) -> str:
    """JSON as it lies in the package."""
    return json.dumps(fitted.model_dump(mode="json"), indent=1) + "\n"


def report(held: Held, *, by_device: bool) -> None:
    """A table: all rows, each software, runtime and precision, and each device's."""
    print("| | rows | median error | 95th percentile | tau | +-x at 90 % |\n|---|---|---|---|---|---|")
    row("all", held)
    for family in sorted({sample.family for sample in held.samples}):
        row(family, calibration.of_family(held, family))
    for device, family in sorted({(s.device, s.family) for s in held.samples}) if by_device else ():
        row(f"{device}, {family}", calibration.of_family(calibration.of_device(held, device), family))


def row(name: str, held: Held) -> None:
    errors = calibration.errors_of(held)
    tau = "-" if errors.tau is None else f"{errors.tau:.3f}"
    print(
        f"| {name} | {errors.count} | {100 * errors.median:.1f} % | {100 * errors.p95:.0f} % | {tau} | "
        f"{100 * errors.interval:.0f} % |"
    )


if __name__ == "__main__":
    main()
