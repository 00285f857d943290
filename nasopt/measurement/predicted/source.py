"""Latencies that are predicted from a device's profile."""

from __future__ import annotations

from collections.abc import Sequence

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.outside import OutsideArchitecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import StudyFileError, choices
from nasopt.measurement.estimating import EstimatingSource, Origin
from nasopt.measurement.inputs import shapes_of
from nasopt.measurement.measured.latency import MeasurementError
from nasopt.measurement.predicted.cell_cost import CellWorkload
from nasopt.measurement.predicted.device_profiles import DeviceProfile
from nasopt.measurement.predicted.fitted import fitted
from nasopt.measurement.predicted.model import AnyWorkload, Prediction, known_precisions, make_case, predict_many
from nasopt.measurement.predicted.software import DEFAULT_RUNTIME, software_of
from nasopt.measurement.predicted.transformer_cost import LayerShape, Workload
from nasopt.measurement.subject import Subject


class PredictingSource(EstimatingSource):
    """Latencies predicted, from a profile, for a device that is not at hand.

    Raises:
        RuntimeNotKnownError: nothing is known of the runtime.
        StudyFileError: a precision cannot be predicted with it on that device.
    """

    estimates = (Architecture, CellArchitecture, OutsideArchitecture)

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

    def number_format(self, precision: Precision) -> str:
        """What matrix products of a model in that precision are computed in."""
        return "tf32" if self.latency.tf32 and precision == "fp32" else precision

    def estimate(self, architecture: CandidateArchitecture, subject: Subject) -> Sequence[Prediction]:
        number_format = self.number_format(architecture.precision)
        workloads = [
            workload_of(architecture, subject.shape, length, size)
            for size, length in shapes_of(self.latency, subject.lengths)
        ]
        return predict_many([make_case(self.profile, self.runtime, number_format, item) for item in workloads])


def workload_of(
    architecture: CandidateArchitecture, shape: EncoderShape, sequence_length: int, batch_size: int
) -> AnyWorkload:
    """One pass of a candidate.

    Args:
        architecture: the candidate's.
        shape: the base model's.
        sequence_length: tokens in each sequence, padding included.
        batch_size: the number of sequences.

    Raises:
        MeasurementError: it is neither an encoder of layers nor a chain of cells.
    """
    if isinstance(architecture, CellArchitecture):
        return CellWorkload(architecture, sequence_length, batch_size)
    if isinstance(architecture, OutsideArchitecture):
        sizes = tuple(LayerShape(heads, architecture.head_size, ffn) for heads, ffn in architecture.layers)
        return Workload(sizes, architecture.hidden_size, sequence_length, batch_size)
    if not isinstance(architecture, Architecture):
        raise MeasurementError("no latency can be predicted of what is neither an encoder of layers nor made of cells")
    kept = [units for units in architecture.layers if units is not None]
    layers = tuple(LayerShape(len(units.heads), shape.head_size, len(units.neurons)) for units in kept)
    return Workload(layers, shape.hidden_size, sequence_length, batch_size)
