"""What each number of heads and neurons costs in one layer, for budgets: from a table, a profile, or in FLOPs.

A model's time is taken as the sum of its parts': `fixed + sum over layers of (heads[h] + neurons[w])`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from transformers import PretrainedConfig

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.genotype import FFN_STEP
from nasopt.measurement.lookup.profiling import Grid, StepCallback, measure_table
from nasopt.measurement.lookup.source import LookupSource
from nasopt.measurement.lookup.table import LookupTable
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.predicted.model import make_case, predict_many
from nasopt.measurement.predicted.source import PredictingSource, workload_of
from nasopt.measurement.sources import LatencySource

BatchShapes: TypeAlias = Sequence[tuple[int, int]]
"""Batch size and padded length of each batch."""

CHECKS = 2
"""Models off the grid of a table that serves a budget: the fewest that a table may have."""
SECONDS = 1.0
"""For each model of such a table."""


@dataclass(frozen=True)
class BlockTimes:
    """Of the base model's layers, which are alike, in any unit.

    Attributes:
        heads: with 0, 1, ..., all heads, (heads + 1,).
        neurons: with 0, 64, 128, ..., all FFN neurons, (blocks of 64 + 1,).
        fixed: of a model whose layers have neither.
    """

    heads: tuple[float, ...]
    neurons: tuple[float, ...]
    fixed: float


def flops_times(shape: EncoderShape, shapes: BatchShapes) -> BlockTimes:
    """Floating-point operations of the layers' matrix products; a multiply-add is 2. Nothing else counts.

    Args:
        shape: the base model's.
        shapes: of the batches; the mean is taken.
    """
    tokens = statistics.fmean(size * length for size, length in shapes)
    scores = statistics.fmean(size * length**2 for size, length in shapes)
    head = 2 * shape.head_size * (4 * shape.hidden_size * tokens + 2 * scores)
    neuron = 2 * 2 * shape.hidden_size * tokens
    return BlockTimes(
        tuple(count * head for count in range(shape.num_heads + 1)),
        tuple(width * neuron for width in _widths(shape)),
        0.0,
    )


def estimated_times(source: LatencySource, shape: EncoderShape, shapes: BatchShapes) -> BlockTimes | None:
    """Milliseconds of fp32 models by a source that need not measure; None for one that does.

    Args:
        source: where the study's latencies come from.
        shape: the base model's.
        shapes: of the batches; the mean is taken.
    """
    if isinstance(source, LookupSource):
        return table_times(source.table, shape, shapes)
    if isinstance(source, PredictingSource):
        return _predicted_times(source, shape, shapes)
    return None


def table_times(table: LookupTable, shape: EncoderShape, shapes: BatchShapes) -> BlockTimes:
    """Milliseconds of fp32 models according to a look-up table; the mean over the batches."""

    def time(heads: int, width: int) -> float:
        return statistics.fmean(
            table.predict(
                [(heads, width)] * shape.num_layers,
                hidden_size=shape.hidden_size,
                batch_size=size,
                sequence_length=length,
                precision="fp32",
            ).latency_ms
            for size, length in shapes
        )

    return _of_chains(time, shape)


def measured_table(
    source: MeasuringSource, config: PretrainedConfig, shape: EncoderShape, shapes: BatchShapes, on_step: StepCallback
) -> LookupTable:
    """Measures a table of the base model's own shapes, in fp32 and eager mode; about a minute.

    On a GPU in TF32 or as captured graphs, if the study measures so: what the host needs to start kernels hides how
    much a layer has left.

    Args:
        source: says on which device, and how.
        config: of the base model.
        shape: its shape.
        shapes: of the batches that are to be measured; the table is of one, with their mean length.
        on_step: told of each model.
    """
    length = round(statistics.fmean(length for _, length in shapes))
    return measure_table(
        config,
        Grid((shape.hidden_size,), (shapes[0][0],), (length,)),
        device=source.device,
        settings=replace(source.settings, runtime="eager"),
        checks=CHECKS,
        seconds=SECONDS,
        on_step=on_step,
    )


def _predicted_times(source: PredictingSource, shape: EncoderShape, shapes: BatchShapes) -> BlockTimes:
    def time(heads: int, width: int) -> float:
        units = KeptUnits(tuple(range(heads)), tuple(range(width)))
        architecture = Architecture((units,) * shape.num_layers)
        workloads = [workload_of(architecture, shape, length, size) for size, length in shapes]
        cases = [make_case(source.profile, source.runtime, source.number_format("fp32"), item) for item in workloads]
        return statistics.fmean(item.latency_ms for item in predict_many(cases))

    return _of_chains(time, shape)


def _of_chains(time: Callable[[int, int], float], shape: EncoderShape) -> BlockTimes:
    """A layer's times from those of models whose layers are alike.

    Args:
        time: heads and neurons of each layer -> the time of the whole model.
        shape: the base model's.
    """
    empty = time(0, 0)

    def of_layer(heads: int, width: int) -> float:
        return max(0.0, time(heads, width) - empty) / shape.num_layers

    heads = tuple(of_layer(count, 0) for count in range(shape.num_heads + 1))
    return BlockTimes(heads, tuple(of_layer(0, width) for width in _widths(shape)), empty)


def _widths(shape: EncoderShape) -> list[int]:
    """Neurons of 0, 1, ... blocks of 64; the last block may be smaller."""
    return [*range(0, shape.ffn_size, FFN_STEP), shape.ffn_size]
