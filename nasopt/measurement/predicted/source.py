"""Latencies that are predicted from a device's profile."""

from __future__ import annotations

from collections.abc import Sequence

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import StudyFileError, choices
from nasopt.measurement.estimating import EstimatingSource, Origin
from nasopt.measurement.inputs import shapes_of
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.predicted.device_profiles import DeviceProfile
from nasopt.measurement.predicted.fitted import fitted
from nasopt.measurement.predicted.model import Prediction, known_precisions, make_case, predict_many
from nasopt.measurement.predicted.software import DEFAULT_RUNTIME, software_of
from nasopt.measurement.predicted.transformer_cost import LayerShape, Workload
from nasopt.measurement.subject import Subject


class PredictingSource(EstimatingSource):
    """Latencies predicted, from a profile, for a device that is not at hand.

    Raises:
        RuntimeNotKnownError: nothing is known of the runtime.
        StudyFileError: a precision cannot be predicted with it on that device.
    """

    def __init__(self, latency: LatencyConfig, profile: DeviceProfile, precisions: Sequence[str]) -> None:
        self.latency = latency
        self.profile = profile
        self.runtime = latency.runtime or DEFAULT_RUNTIME
        known = known_precisions(profile, software_of(self.runtime), self.runtime)
        unknown = [precision for precision in precisions if precision not in known]
        if unknown:
            raise StudyFileError(
                f"latency.device: for {profile.name} with {self.runtime} latencies are predicted in {choices(known)}, "
                f"not in {choices(unknown)}; leave that out of method_options.precisions"
            )

    @property
    def origin(self) -> Origin:
        name = self.profile.name
        return Origin(profile=name, device=name, fitted=fitted().date)

    def estimate(self, architecture: CandidateArchitecture, subject: Subject) -> Sequence[Prediction]:
        if not isinstance(architecture, Architecture):
            raise MeasurementError("no latency can be predicted of an architecture that is not of transformer layers")
        shape, precision = subject.shape, architecture.precision
        kept = [units for units in architecture.layers if units is not None]
        layers = tuple(LayerShape(len(units.heads), shape.head_size, len(units.neurons)) for units in kept)
        number_format = "tf32" if self.latency.tf32 and precision == "fp32" else precision
        workloads = [
            Workload(layers, shape.hidden_size, length, size) for size, length in shapes_of(self.latency, subject)
        ]
        return predict_many([make_case(self.profile, self.runtime, number_format, item) for item in workloads])
