"""The least lossy sub-network of every latency: a study's sensitivity and its device's times, joined (METHODS.md 6)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import LookupTableError, StudyFileError
from nasopt.host.files import write_atomically
from nasopt.host.locks import Lock
from nasopt.host.object_store import fetch
from nasopt.measurement.block_times import (
    BatchShapes,
    BlockTimes,
    estimated_times,
    flops_times,
    measured_table,
    table_times,
)
from nasopt.measurement.inputs import shapes_of
from nasopt.measurement.lookup.table import LookupTable
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.sources import make_source
from nasopt.models.sensitivity.values import Sensitivity
from nasopt.numerics.budget import LOWEST_SHARE, BlockCosts, bisected, choose_counts, share_ladder, smallest_share
from nasopt.training.samples import SampleSettings
from nasopt.training.sensitivity import FOLDER, Criterion, study_sensitivity

if TYPE_CHECKING:
    from nasopt.training.context import Context

Cost: TypeAlias = Literal["latency", "flops"]

_MARGIN = 1e-9
"""By which the last rung lies above what the smallest sub-network takes."""

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class SubNetworks:
    """Sub-networks of a base model, one for every share of its time.

    Attributes:
        sensitivity: the order of the units, and what each number of them is expected to cost.
        times: what each number of them takes.
    """

    sensitivity: Sensitivity
    times: BlockTimes

    @cached_property
    def costs(self) -> list[BlockCosts]:
        """The expected loss and the time of 0, 1, ... units of each block, layer by layer, heads before neurons."""
        kinds = (self.times.heads, self.times.neurons)
        return [
            BlockCosts(block.expected_losses, kinds[index % 2]) for index, block in enumerate(self.sensitivity.blocks)
        ]

    @property
    def smallest_share(self) -> float:
        """The least share of the base model's time that any of them takes."""
        return smallest_share(self.costs, self.times.fixed)

    def architecture(self, share: float) -> Architecture:
        """The one with the least expected loss within a share of the base model's time.

        Raises:
            ValueError: the share is not in (0, 1], or below :attr:`smallest_share`.
        """
        return self.sensitivity.architecture(choose_counts(self.costs, self.times.fixed, share))

    def shares(self, lowest: float | None, rungs: int) -> list[float]:
        """Shares below the whole model's, evenly spaced in the logarithm, in the order of a bisection.

        Args:
            lowest: the least one, or what the smallest sub-network takes where that is more; None for
                :data:`nasopt.numerics.budget.LOWEST_SHARE`.
            rungs: how many.
        """
        reached = min(1.0, self.smallest_share * (1 + _MARGIN))
        return bisected(share_ladder(1.0, max(lowest or LOWEST_SHARE, reached), rungs + 1)[1:])

    def ladder(self, shares: Sequence[float]) -> list[Architecture]:
        """The different sub-networks of these shares, in their order, without the whole model."""
        whole = self.architecture(1.0)
        found = [self.architecture(share) for share in shares]
        return [item for item in dict.fromkeys(found) if item != whole]


def study_sub_networks(criterion: Criterion, settings: SampleSettings, cost: Cost, context: Context) -> SubNetworks:
    """Those of a study, whose sensitivity and times are found once and kept in its artifact folder.

    Args:
        criterion: see :func:`nasopt.training.sensitivity.study_sensitivity`.
        settings: on which training examples the sensitivity is found.
        cost: what a share is of; see :func:`study_times`.
        context: the study's base model and data.

    Raises:
        UnsupportedModelError: the base model has a decoder, or is not one that can be cut.
        DatasetError: there are fewer training examples than are asked for.
    """
    return SubNetworks(study_sensitivity(criterion, settings, context), study_times(cost, context))


def study_times(cost: Cost, context: Context) -> BlockTimes:
    """What the base model's blocks take where the study's first latency is measured, predicted or looked up.

    Args:
        cost: `latency`: by its look-up table or its device's profile; where latency is measured, by a look-up table of
            the base model's own shapes, which is measured once for the study. `flops`: floating-point operations.
        context: the study's base model and data.
    """
    latency = context.config.latency[0]
    shapes = shapes_of(latency, context.splits["validation"].lengths)
    if cost == "flops":
        return flops_times(context.shape, shapes)
    source = make_source(latency, ("fp32",))
    known = estimated_times(source, context.shape, shapes)
    if known is not None:
        return known
    assert isinstance(source, MeasuringSource)
    return table_times(_study_table(source, shapes, context), context.shape, shapes)


def check_share(name: str, share: float, cost: Cost, latency: LatencyConfig, shape: EncoderShape) -> None:
    """Refuses a share that no sub-network can keep to, as far as that is known before anything is measured.

    Args:
        name: of the option that says the share.
        share: of the base model's time.
        cost: what it is of.
        latency: the study's first.
        shape: the base model's.

    Raises:
        StudyFileError: the smallest sub-network takes more.
    """
    shapes = [(latency.batch_size, latency.sequence_length)]
    times: BlockTimes | None
    if cost == "flops":
        times = flops_times(shape, shapes)
    else:
        times = estimated_times(make_source(latency, ("fp32",)), shape, shapes)
    if times is None:
        return
    layers = shape.num_layers
    smallest = times.fixed + layers * (min(times.heads) + min(times.neurons))
    whole = times.fixed + layers * (times.heads[-1] + times.neurons[-1])
    if smallest > share * whole:
        raise StudyFileError(
            f"{name}: {share:g} of the base model's latency cannot be reached: what no sub-network can leave out "
            f"(embeddings, norms, head) takes {smallest / whole:.3f} of it; ask for more than that"
        )


def _study_table(source: MeasuringSource, shapes: BatchShapes, context: Context) -> LookupTable:
    """The look-up table of the base model's own shapes, from its file, or measured. Workers wait for each other."""
    folder = context.folder / FOLDER
    folder.mkdir(exist_ok=True)
    made_from = [context.base_key, source.latency.model_dump(mode="json"), list(shapes)]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    file = folder / f"device-{key}.json"
    with Lock(folder / ".device.lock"):
        found = _read(file)
        if found is None:
            found = measured_table(
                source,
                context.base_model.config,
                context.shape,
                shapes,
                lambda done, total, what: context.on_phase("look-up table", done, total),
            )
            write_atomically(file, found.model_dump_json(indent=1))
    return found


def _read(file: Path) -> LookupTable | None:
    """A table from its file; None where there is none, or a damaged one, which is said."""
    if not fetch(file):
        return None
    try:
        return LookupTable.read(file)
    except LookupTableError as error:
        logger.warning("%s; it is measured again", error)
        return None
