"""Measures a look-up table on the device at hand.

No block is timed alone: a table made of blocks that run over and over on warm caches would add up to less than a
model. Each entry is the difference of two whole models, of which one has :data:`CHAIN_LAYERS` equal layers more or
larger, divided by the number of layers:

    layer        = (chain of layers without heads and neurons  -  no layers)      / n
    attention(h) = (chain of layers with h heads only          -  chain of empty) / n
    ffn(w)       = (chain of layers with w neurons only        -  chain of empty) / n

Every model is timed in alternation with one and the same reference model (:func:`measure_latency`); its ratio to the
reference, times the reference's median over the whole session, is its latency. So a spell of other work on the machine
touches both members of a pair and cancels, and entries that were measured minutes apart add up.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from nasopt.errors import LookupTableError
from nasopt.measurement.device import device_name, driver_version
from nasopt.measurement.latency import LatencyMeasurement, fixed_inputs, measure_latency
from nasopt.measurement.lut import KIND, Block, Check, Entry, LayerSizes, LookupTable, Place, SizedBlock
from nasopt.models.architecture import FFN_STEP, Architecture, EncoderShape, KeptUnits, Precision
from nasopt.models.families import encoder_shape, family_of, max_positions
from nasopt.models.quantization import quantize
from nasopt.models.surgery import cut

CHAIN_LAYERS = 4
"""Equal layers in a row: so many that their cost stands out, and that their weights compete for the caches as those of
a whole model do; so few that a pass of a large model stays short."""
QUARTERS = 4
"""The grid has one head and each quarter of all heads; widths likewise."""
CHECKS = 8
"""Models off the grid for each precision, from whose errors the interval of a prediction follows."""

StepCallback = Callable[[int, int, str], None]
"""(models measured, models in all, what is measured next)."""


@dataclass(frozen=True)
class Grid:
    """What a table is measured for.

    Args:
        hidden_sizes: multiples of the head size.
        batch_sizes, sequence_lengths: of the batch.
        precisions: in which models are stored.
    """

    hidden_sizes: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    precisions: tuple[Precision, ...] = ("fp32",)

    def places(self) -> list[Place]:
        """Every combination."""
        sizes = itertools.product(self.hidden_sizes, self.batch_sizes, self.sequence_lengths, self.precisions)
        return [Place(*place) for place in sizes]


@dataclass(frozen=True)
class Timing:
    """A model's latency in units of the reference's, and half the width of the 95 % interval of it."""

    ratio: float
    error: float
    pairs: int

    @classmethod
    def of(cls, measured: LatencyMeasurement) -> Timing:
        return cls(measured.ratio, (measured.ratio_high - measured.ratio_low) / 2, measured.repetitions)


def measure_table(
    config: PretrainedConfig,
    grid: Grid,
    *,
    device: torch.device,
    threads: int,
    chain_layers: int = CHAIN_LAYERS,
    checks: int = CHECKS,
    seconds: float = 2.0,
    seed: int = 0,
    on_step: StepCallback = lambda done, total, what: None,
) -> LookupTable:
    """Measures every entry of a grid, then models off the grid as a check.

    Args:
        config: of the model whose candidates are to be predicted: family, head size, FFN width, vocabulary.
        grid: where.
        device: the device to measure on.
        threads: threads of one operation on the CPU.
        chain_layers: see :data:`CHAIN_LAYERS`.
        checks: models off the grid for each precision, at least 2.
        seconds: time for each model.
        seed: of weights, tokens, order and checks.
        on_step: told of each model.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
        LookupTableError: a hidden size is no multiple of the head size, or a text is longer than the model reads.
    """
    _check_grid(config, grid)
    session = _Session(config, device, threads, seconds, seed)
    shape = encoder_shape(config)
    jobs = [job for place in grid.places() for job in _jobs(place, shape, chain_layers)]
    generator = random.Random(seed)
    checked = [
        _random_check(shape, grid, precision, generator) for precision in grid.precisions for _ in range(checks)
    ]
    # In random order, so that a drift of the machine does not look like an effect of size.
    generator.shuffle(jobs)
    total, timings = len(jobs) + len(checked), {}
    for done, job in enumerate(jobs):
        on_step(done, total, str(job))
        timings[job] = session.time(job)
    measured: list[tuple[Model, Timing]] = []
    for done, model in enumerate(checked, start=len(jobs)):
        on_step(done, total, f"check: {model}")
        measured.append((model, session.time(model)))
    on_step(total, total, "done")
    reference_ms = session.reference_ms
    return LookupTable(
        kind=KIND,
        schema_version=1,
        device=device_name(device),
        driver=driver_version(device),
        threads=threads,
        torch_version=str(torch.__version__),
        runtime="eager",
        created=datetime.now(UTC).date(),
        model_type=config.model_type,
        head_size=shape.head_size,
        chain_layers=chain_layers,
        reference_ms=reference_ms,
        entries=tuple(entry for place in grid.places() for entry in _entries(place, timings, reference_ms)),
        checks=tuple(_check(model, timing, reference_ms) for model, timing in measured),
    )


def random_layers(shape: EncoderShape, depth: int, generator: random.Random) -> tuple[LayerSizes, ...]:
    """Any heads and any width (in steps of 64) for each layer, blocks that are gone included."""
    widths = range(0, shape.ffn_size + 1, min(FFN_STEP, shape.ffn_size))
    return tuple((generator.randint(0, shape.num_heads), generator.choice(widths)) for _ in range(depth))


def node_sizes(full: int, step: int) -> list[int]:
    """Sizes on the grid: one unit, and the quarters of all, in multiples of `step`."""
    quarters = (round(full * part / QUARTERS / step) * step for part in range(1, QUARTERS + 1))
    return sorted({min(step, full), full, *(size for size in quarters if size)})


@dataclass(frozen=True)
class Model:
    """One model that is timed.

    Attributes:
        place: hidden size, batch, length and precision.
        layers: the sizes of each.
        stop: up to which part of it: the last layer, the pooler or the head.
    """

    place: Place
    layers: tuple[LayerSizes, ...]
    stop: Block = "head"

    def __str__(self) -> str:
        layers = " ".join(f"{heads}/{width}" for heads, width in self.layers)
        return f"{self.place}, {f'heads/FFN {layers}' if layers else f'no layers, {self.stop}'}"


class _Session:
    """The reference model, and models timed against it."""

    def __init__(self, config: PretrainedConfig, device: torch.device, threads: int, seconds: float, seed: int) -> None:
        self._config, self._device, self._threads, self._seconds, self._seed = config, device, threads, seconds, seed
        self._base_times: list[float] = []
        self._full: dict[tuple[int, int], PreTrainedModel] = {}
        self._reference: Callable[[Place], nn.Module] | None = None

    def time(self, model: Model) -> Timing:
        place = model.place
        candidate = _Part(self._built(model), model.stop)
        reference = self._built(Model(place._replace(precision="fp32"), (_full_layer(self._config, place),)))
        inputs = fixed_inputs(
            place.batch_size,
            place.sequence_length,
            vocab_size=self._config.vocab_size,
            special_ids=_special_ids(self._config),
            device=self._device,
            seed=self._seed,
        )
        measured = measure_latency(candidate, reference, inputs, device=self._device, threads=self._threads)
        return Timing.of(measured)
