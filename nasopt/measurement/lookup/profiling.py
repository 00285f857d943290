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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from nasopt.architecture.base import EncoderShape, Precision
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.genotype import FFN_STEP
from nasopt.errors import LookupTableError
from nasopt.measurement.device import device_name, driver_version
from nasopt.measurement.lookup.table import (
    FIXED_BLOCKS,
    KIND,
    RUNTIME,
    SCHEMA_VERSION,
    Block,
    Check,
    Entry,
    LayerSizes,
    LookupTable,
    Place,
)
from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
from nasopt.measurement.measured.runtimes import RuntimeSettings, numerics, prepare
from nasopt.models.families import encoder_family_of, encoder_shape, max_positions
from nasopt.models.loading import HEAD_SUFFIX, auto_class, head_of
from nasopt.models.quantization import quantize
from nasopt.models.surgery import cut

CHAIN_LAYERS = 4
"""Equal layers in a row: enough for their cost to stand out, and for their weights to compete for the caches as those
of a whole model do; few enough for a pass of a large model to stay short."""
QUARTERS = 4
"""Parts that the grid divides all heads into, beside a single head, and the widths alike."""
CHECKS = 8
"""The number of models off the grid for each precision, from whose errors the interval of a prediction follows."""

MAX_PAIRS = 400
RELATIVE_WIDTH = 0.01
"""The width at which timing stops; narrower than a trial's, because entries are differences and add up."""

StepCallback = Callable[[int, int, str], None]
"""(models measured, models in all, what is measured next)."""


@dataclass(frozen=True)
class Grid:
    """The sizes and precisions that a table is measured for.

    Args:
        hidden_sizes: multiples of the head size.
        batch_sizes: numbers of sequences.
        sequence_lengths: tokens in each sequence.
        precisions: the precisions in which models are stored.
    """

    hidden_sizes: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    precisions: tuple[Precision, ...] = ("fp32",)

    def places(self) -> list[Place]:
        """Every combination of the sizes and precisions."""
        sizes = itertools.product(self.hidden_sizes, self.batch_sizes, self.sequence_lengths, self.precisions)
        return [Place(*place) for place in sizes]


@dataclass(frozen=True)
class Model:
    """One model that is timed.

    Attributes:
        place: hidden size, batch, length and precision.
        layers: the sizes of each layer.
        stop: the last part that is timed: what comes before the pooler, the pooler, or the head.
    """

    place: Place
    layers: tuple[LayerSizes, ...]
    stop: Block = "head"

    def __str__(self) -> str:
        layers = " ".join(f"{heads}/{width}" for heads, width in self.layers)
        return f"{self.place}, {f'heads/FFN {layers}' if layers else f'no layers, up to the {self.stop}'}"


@dataclass(frozen=True)
class Timing:
    """A model's latency in units of the reference's, and half the width of its 95 % interval."""

    ratio: float
    error: float
    pairs: int


def measure_table(
    config: PretrainedConfig,
    grid: Grid,
    *,
    device: torch.device,
    settings: RuntimeSettings,
    checks: int = CHECKS,
    seconds: float = 2.0,
    seed: int = 0,
    on_step: StepCallback = lambda done, total, what: None,
) -> LookupTable:
    """Measures every entry of a grid, then models off the grid as a check.

    Args:
        config: describes the model whose candidates are to be predicted: family, head size, FFN width, vocabulary.
        grid: the sizes and precisions to measure.
        device: the device to measure on.
        settings: how models run: eager, with so many threads, in TF32 or as a captured graph.
        checks: the number of models off the grid for each precision, at least 2.
        seconds: the time that each model is given.
        seed: decides weights, tokens, order and checks.
        on_step: told of each model.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
        LookupTableError: a hidden size is no multiple of the head size, or a text is longer than the model reads.
    """
    _check_grid(config, grid)
    shape, places = encoder_shape(config), grid.places()
    reference = _reference(shape, places)
    session = Session(config, reference, device=device, settings=settings, seconds=seconds, seed=seed)
    generator = random.Random(seed)
    jobs = [job for place in places for job in _jobs(place, shape)]
    # In random order, so that a drift of the machine does not look like an effect of size.
    generator.shuffle(jobs)
    tests = [random_model(shape, grid, precision, generator) for precision in grid.precisions for _ in range(checks)]
    timings: dict[Model, Timing] = {}
    for done, model in enumerate([*jobs, *tests]):
        on_step(done, len(jobs) + len(tests), str(model))
        timings[model] = session.time(model)
    on_step(len(jobs) + len(tests), len(jobs) + len(tests), "done")
    reference_ms = session.reference_ms
    return LookupTable(
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        device=device_name(device),
        driver=driver_version(device),
        threads=settings.threads,
        torch_version=str(torch.__version__),
        runtime=RUNTIME,
        created=datetime.now(UTC).date(),
        model_type=config.model_type,
        head_size=shape.head_size,
        chain_layers=CHAIN_LAYERS,
        reference_ms=reference_ms,
        entries=tuple(entry for place in places for entry in _entries(place, shape, timings, reference_ms)),
        checks=tuple(
            Check(**test.place._asdict(), layers=test.layers, measured_ms=timings[test].ratio * reference_ms)
            for test in tests
        ),
    )


def random_model(shape: EncoderShape, grid: Grid, precision: Precision, generator: random.Random) -> Model:
    """A model off the grid, but not beyond it."""
    hidden = generator.choice(grid.hidden_sizes)
    batch = generator.randint(min(grid.batch_sizes), max(grid.batch_sizes))
    length = generator.randint(min(grid.sequence_lengths), max(grid.sequence_lengths))
    depth = generator.randint(1, shape.num_layers)
    heads = hidden // shape.head_size
    layers = random_layers(heads, shape.ffn_size, depth, generator)
    return Model(Place(hidden, batch, length, precision), layers)


def random_layers(heads: int, ffn_size: int, depth: int, generator: random.Random) -> tuple[LayerSizes, ...]:
    """Draws any number of heads and any width (in steps of 64) for each layer; either may be 0."""
    widths = range(0, ffn_size + 1, min(FFN_STEP, ffn_size))
    return tuple((generator.randint(0, heads), generator.choice(widths)) for _ in range(depth))


def node_sizes(full: int, step: int) -> list[int]:
    """Sizes on the grid: one unit, and the quarters of all, in multiples of `step`."""
    quarters = (round(full * part / QUARTERS / step) * step for part in range(1, QUARTERS))
    return sorted({min(step, full), full, *(size for size in quarters if size)})


class Session:
    """One reference model, and others timed in alternation with it.

    Args:
        config: describes the model that all are cut from.
        reference: the model that all are compared with.
        device, settings, seconds, seed: see :func:`measure_table`.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        reference: Model,
        *,
        device: torch.device,
        settings: RuntimeSettings,
        seconds: float,
        seed: int,
    ) -> None:
        self._config, self._device, self._settings, self._seconds, self._seed = config, device, settings, seconds, seed
        self._full: dict[int, PreTrainedModel] = {}
        self._reference_times: list[float] = []
        self.reference = self._part(reference)
        """The reference model, which runs on its own batch, whatever it is given."""

    @property
    def reference_ms(self) -> float:
        """The reference model's latency: the median of what was seen beside each model."""
        return statistics.median(self._reference_times)

    def time(self, model: Model) -> Timing:
        """Measures one model."""
        with numerics(self._settings):
            measured = measure_latency(
                self._part(model),
                self.reference,
                {},
                device=self._device,
                threads=self._settings.threads,
                max_pairs=MAX_PAIRS,
                relative_width=RELATIVE_WIDTH,
                time_budget_s=self._seconds,
            )
        self._reference_times.append(measured.base_median_ms)
        return Timing(measured.ratio, (measured.ratio_high - measured.ratio_low) / 2, measured.repetitions)

    def _part(self, model: Model) -> nn.Module:
        inputs = self._inputs(model.place)
        part = _Part(self.build(model), model.stop, inputs)
        with numerics(self._settings):
            return prepare(part, [inputs], self._settings, device=self._device)

    def build(self, model: Model) -> PreTrainedModel:
        """The model, whole, whatever part of it is timed."""
        hidden = model.place.hidden_size
        if hidden not in self._full:
            self._full[hidden] = _full_model(self._config, hidden, self._seed)
        full = copy.deepcopy(self._full[hidden])
        if model.layers:
            kept = [KeptUnits(tuple(range(heads)), tuple(range(width))) for heads, width in model.layers]
            gone = encoder_shape(full.config).num_layers - len(kept)
            cut(full, Architecture((*kept, *(None,) * gone)))
        else:
            del encoder_family_of(full).parts.encoder_layers(full)[:]
        return quantize(full, model.place.precision, self._device)

    def _inputs(self, place: Place) -> dict[str, Tensor]:
        padding = self._config.pad_token_id
        return fixed_inputs(
            place.batch_size,
            place.sequence_length,
            vocab_size=self._config.vocab_size,
            special_ids=() if padding is None else (padding,),
            device=self._device,
            seed=self._seed,
        )


class _Part(nn.Module):
    """A model up to one of its parts, always on the same batch."""

    def __init__(self, model: PreTrainedModel, stop: Block, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        encoder = model.base_model
        if stop == "embedding" and hasattr(encoder, "pooler"):
            encoder.pooler = None
        self._part, self._inputs = model if stop == "head" else encoder, inputs

    def forward(self, **_: Tensor) -> None:
        self._part(**self._inputs)


def _full_model(config: PretrainedConfig, hidden_size: int, seed: int) -> PreTrainedModel:
    """A classifier of random weights with all heads and neurons, as deep as any model that is timed."""
    family, shape = encoder_family_of(config), encoder_shape(config)
    sized = copy.deepcopy(config)
    depth = max(shape.num_layers, CHAIN_LAYERS)
    sized.hidden_size = hidden_size
    setattr(sized, family.num_heads_key, hidden_size // shape.head_size)
    setattr(sized, family.num_layers_key, depth)
    types = getattr(config, "layer_types", None)  # whether each layer's attention is local or global
    if types is not None:
        sized.layer_types = [types[index % len(types)] for index in range(depth)]
    head = head_of(config) or HEAD_SUFFIX
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = auto_class(head).from_config(sized, dtype=torch.float32, trust_remote_code=False)
    return model.eval()


def _check_grid(config: PretrainedConfig, grid: Grid) -> None:
    head_size, longest = encoder_shape(config).head_size, max_positions(config)
    for hidden in grid.hidden_sizes:
        if hidden % head_size:
            raise LookupTableError(f"hidden size {hidden}: it must be a multiple of the size of a head, {head_size}")
    for length in grid.sequence_lengths:
        if length > longest:
            raise LookupTableError(f"sequence length {length}: the model reads at most {longest} tokens")


def _reference(shape: EncoderShape, places: Sequence[Place]) -> Model:
    """One full layer at a place in the middle of the grid."""
    place = places[len(places) // 2]._replace(precision="fp32")
    return Model(place, ((place.hidden_size // shape.head_size, shape.ffn_size),))


def _jobs(place: Place, shape: EncoderShape) -> list[Model]:
    """The models whose differences are the entries at one place."""
    parts = [Model(place, (), stop) for stop in FIXED_BLOCKS]
    layers = [(0, 0), *_sizes(place, shape)]
    return [*parts, *(_chain(place, layer) for layer in layers)]


def _sizes(place: Place, shape: EncoderShape) -> list[LayerSizes]:
    """The layers of one block only that are measured at a place."""
    heads = node_sizes(place.hidden_size // shape.head_size, 1)
    widths = node_sizes(shape.ffn_size, FFN_STEP)
    return [*((count, 0) for count in heads), *((0, width) for width in widths)]


def _chain(place: Place, layer: LayerSizes) -> Model:
    return Model(place, (layer,) * CHAIN_LAYERS)


def _entries(
    place: Place, shape: EncoderShape, timings: Mapping[Model, Timing], reference_ms: float
) -> Iterator[Entry]:
    def entry(block: Block, size: int, larger: Model, smaller: Model | None, layers: int) -> Entry:
        more, less = timings[larger], timings[smaller] if smaller else Timing(0.0, 0.0, 0)
        # A difference below zero is noise around a part that costs nothing.
        latency = max(0.0, more.ratio - less.ratio) * reference_ms / layers
        error = math.hypot(more.error, less.error) * reference_ms / layers
        return Entry(
            **place._asdict(),
            block=block,
            size=size,
            latency_ms=latency,
            low_ms=max(0.0, latency - error),
            high_ms=latency + error,
            pairs=more.pairs,
        )

    before = None
    for block in FIXED_BLOCKS:
        part = Model(place, (), block)
        yield entry(block, 0, part, before, 1)
        before = part
    empty = _chain(place, (0, 0))
    yield entry("layer", 0, empty, before, CHAIN_LAYERS)
    for layer in _sizes(place, shape):
        heads, width = layer
        yield entry("attention" if heads else "ffn", heads or width, _chain(place, layer), empty, CHAIN_LAYERS)
