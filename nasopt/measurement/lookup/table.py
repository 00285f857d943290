"""A look-up table of block latencies, which add up to the latency of an encoder of any shape on the measured device.

A model's latency is the sum of its parts' (no torch here, nothing is measured):

    embedding + pooler + head + sum over layers of (layer + attention(heads) + ffn(width))

`layer` is what a layer costs that has neither heads nor neurons left (its norms, its biases and its dispatch), so that
`attention(0) = ffn(0) = 0`. Each entry is known on a grid of hidden size x batch size x sequence length for each
precision. In between it is interpolated linearly along each axis, which is exact for matrix products, whose work is a
product of these sizes. Along heads and widths the entries are made monotone first (least squares), so that a search is
never told that removing something costs time because a measurement was noisy.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nasopt.architecture.base import Precision
from nasopt.errors import LookupTableError, choices
from nasopt.measurement.lookup import limits
from nasopt.measurement.lookup.limits import Milliseconds, PositiveMilliseconds, Size, SizeOrNone, Text
from nasopt.records.latency import device_identity

KIND: Literal["lookup-table"] = "lookup-table"
"""The value of `kind` that tells such a file from a profile of the analytic model."""
SCHEMA_VERSION: Literal[1] = 1
RUNTIME: Literal["eager"] = "eager"
CONFIDENCE = 0.9

Block: TypeAlias = Literal["embedding", "pooler", "head", "layer", "attention", "ffn"]
SizedBlock: TypeAlias = Literal["attention", "ffn"]
FIXED_BLOCKS: tuple[Block, ...] = ("embedding", "pooler", "head")
SIZED_BLOCKS: tuple[SizedBlock, ...] = get_args(SizedBlock)

LayerSizes: TypeAlias = tuple[int, int]
"""(attention heads, FFN neurons) of one layer that is kept; 0 for a block that is gone."""


class Place(NamedTuple):
    """The point of the grid at which an entry was measured."""

    hidden_size: int
    batch_size: int
    sequence_length: int
    precision: Precision

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Hidden size, batch size and sequence length."""
        return self[:3]

    def __str__(self) -> str:
        return f"hidden size {self.hidden_size}, {self.batch_size} x {self.sequence_length}, {self.precision}"


class _Record(BaseModel):
    """An object in a table's file, which has exactly the fields of its class."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Placed(_Record):
    """A measurement with its place on the grid, or off it."""

    hidden_size: Size
    batch_size: Size
    sequence_length: Size
    precision: Precision

    @property
    def place(self) -> Place:
        return Place(self.hidden_size, self.batch_size, self.sequence_length, self.precision)


class Entry(_Placed):
    """The latency of one block at one place.

    Attributes:
        block: the block.
        size: heads of an attention, neurons of an FFN; 0 for the other blocks, which have one size.
        latency_ms: its latency in one forward pass of one batch.
        low_ms, high_ms: 95 % interval of `latency_ms`.
        pairs: the number of alternated pairs it comes from.
    """

    block: Block
    size: SizeOrNone
    latency_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    pairs: int = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> Entry:
        if (self.block in SIZED_BLOCKS) != (self.size > 0):
            raise ValueError(f"the block {self.block!r} cannot have the size {self.size}")
        if not self.low_ms <= self.latency_ms <= self.high_ms:
            raise ValueError(f"{self.latency_ms} ms does not lie between {self.low_ms} and {self.high_ms}")
        return self


class Check(_Placed):
    """A whole model off the grid, measured to learn how far the table can be trusted."""

    layers: tuple[Annotated[tuple[SizeOrNone, SizeOrNone], Field(strict=False)], ...] = Field(min_length=1)
    measured_ms: PositiveMilliseconds


@dataclass(frozen=True)
class Estimate:
    """The latency of a model according to a table.

    Args:
        latency_ms: The time of one forward pass of one whole batch.
        low: Lower end of the interval, in ms.
        high: Upper end of the interval, in ms.
        interval_percent: The `x` of "+-x %"; the interval is from `latency_ms / (1 + x)` to `latency_ms * (1 + x)`.
        beyond: What lies beyond the grid, in words (``"heads 16 > 12"``), empty if nothing; the interval does not hold
            there.
        parts_ms: The sum's terms, each summed over all layers.
    """

    latency_ms: float
    low: float
    high: float
    interval_percent: float
    beyond: str
    parts_ms: Mapping[Block, float]


class LookupTable(_Record):
    """A device's table, as it stands in its file.

    Attributes:
        device, driver, threads, torch_version, runtime: where and how it was measured.
        created: the day on which it was measured.
        model_type, head_size: the family of encoders and the size of heads that it was measured for, and no others.
        chain_layers: the number of equal layers in a row where one layer was measured.
        reference_ms: median latency of the block that everything was measured in alternation with.
        entries: all blocks at all places of the grid.
        checks: models off the grid.
    """

    kind: Literal["lookup-table"]
    schema_version: Literal[1]
    device: Text = Field(min_length=1)
    driver: Text
    threads: Size
    torch_version: Text
    runtime: Literal["eager"]
    created: date
    model_type: Text
    head_size: Size
    chain_layers: Size
    reference_ms: PositiveMilliseconds
    entries: tuple[Entry, ...] = Field(min_length=1)
    checks: tuple[Check, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_whole(self) -> LookupTable:
        keys = [(entry.block, entry.size, entry.place) for entry in self.entries]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{twice[0]} {twice[1]} stands there twice at {twice[2]}")
        found: dict[Place, set[Block]] = {}
        for block, _, where in keys:
            found.setdefault(where, set()).add(block)
        for precision in self.precisions:
            for hidden, batch, length in itertools.product(*self._axes[precision]):
                place = Place(hidden, batch, length, precision)
                if missing := set(get_args(Block)) - found.get(place, set()):
                    raise ValueError(f"{sorted(missing)[0]} is missing at {place}")
        self._check_checks()
        return self

    def _check_checks(self) -> None:
        """Makes sure that the models off the grid say how far the table can be trusted."""
        for check in self.checks:
            if check.precision not in self.precisions:
                raise ValueError(f"a check is in {check.precision}, of which there is no entry")
            if self._sum(check.layers, check.place) <= 0:
                raise ValueError("the entries of a check add up to 0 ms")
        if not self.relative_error < math.log(limits.LARGEST_FACTOR):
            raise ValueError("the checks differ so much from what the entries add up to that neither can be right")

    @classmethod
    def read(cls, path: str | Path) -> LookupTable:
        """Reads and checks a file that `nasopt device profile` wrote.

        Raises:
            LookupTableError: it is missing, not JSON, or holds what no table can; the message is one line.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LookupTableError(
                f"{path}: no such look-up table; `nasopt device profile --out {path}` makes one"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise LookupTableError(f"{path}: not a look-up table: {reason}") from None
        return cls.of_document(document, str(path))

    @classmethod
    def of_document(cls, document: Any, where: str) -> LookupTable:
        """The table in a parsed file; `where` names the file in errors.

        Raises:
            LookupTableError: see :meth:`read`.
        """
        if not is_lookup_table(document):
            raise LookupTableError(f"{where}: not a look-up table (its `kind` is not {KIND!r})")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise LookupTableError(f"{where}: {limits.in_words(error)}") from None

    @property
    def identity(self) -> str:
        """Device and threads, as a measured latency's identity writes them."""
        return device_identity(self.device, self.threads, is_gpu=bool(self.driver))

    @property
    def precisions(self) -> list[Precision]:
        return sorted({entry.precision for entry in self.entries})

    @property
    def relative_error(self) -> float:
        """Half-width of the 90 % interval of log latency, from the checks.

        Student's t for as many degrees of freedom as checks: predictions are taken as unbiased, only the spread of
        the errors is estimated.
        """
        from scipy.special import stdtrit

        errors = [math.log(self._sum(check.layers, check.place) / check.measured_ms) for check in self.checks]
        spread = math.sqrt(sum(error**2 for error in errors) / len(errors))
        return float(stdtrit(len(errors), (1 + CONFIDENCE) / 2)) * spread

    def known_precision(self, name: str | None) -> Precision:
        """The precision of that name; fp32, or else the table's first, if it is None.

        Raises:
            LookupTableError: the table knows nothing of it.
        """
        if name is None:
            return "fp32" if "fp32" in self.precisions else self.precisions[0]
        for precision in self.precisions:
            if precision == name:
                return precision
        raise LookupTableError(
            f"the look-up table of {self.device!r} has no {name}; it has {choices(self.precisions)}; "
            f"`nasopt device profile --precision {name}` measures it"
        )

    def predict(
        self,
        layers: Sequence[LayerSizes],
        *,
        hidden_size: int,
        batch_size: int,
        sequence_length: int,
        precision: Precision,
    ) -> Estimate:
        """The latency of an encoder with a classifier.

        Args:
            layers: the sizes of the layers that are kept.
            hidden_size, batch_size, sequence_length: may lie between the grid's, or beyond it.
            precision: one of the table's.

        Raises:
            LookupTableError: the table knows nothing of that precision.
        """
        place = Place(hidden_size, batch_size, sequence_length, self.known_precision(precision))
        parts = self._parts(layers, place)
        latency = sum(parts.values())
        factor = math.exp(self.relative_error)
        percent = round(100 * (factor - 1), 1)
        return Estimate(latency, latency / factor, latency * factor, percent, self._beyond(layers, place), parts)

    def _sum(self, layers: Sequence[LayerSizes], place: Place) -> float:
        return sum(self._parts(layers, place).values())

    def _parts(self, layers: Sequence[LayerSizes], place: Place) -> dict[Block, float]:
        """The terms of the sum, each at least 0."""
        parts: dict[Block, float] = {block: self._at(block, 0, place) for block in FIXED_BLOCKS}
        parts["layer"] = len(layers) * self._at("layer", 0, place)
        parts["attention"] = sum(self._at("attention", heads, place) for heads, _ in layers)
        parts["ffn"] = sum(self._at("ffn", width, place) for _, width in layers)
        return parts

    def _at(self, block: Block, size: int, place: Place) -> float:
        """One block's latency: interpolated by size at the corners around a place, then between them."""
        if block in SIZED_BLOCKS and size == 0:
            return 0.0
        total = 0.0
        for corner, weight in self._corners(place):
            curve = self._curves[block, corner]
            total += weight * sum(share * curve[node] for node, share in bracket(sorted(curve), size))
        return max(0.0, total)

    def _corners(self, place: Place) -> list[tuple[Place, float]]:
        brackets = [
            bracket(nodes, value) for nodes, value in zip(self._axes[place.precision], place.sizes, strict=True)
        ]
        return [
            (Place(hidden, batch, length, place.precision), by_hidden * by_batch * by_length)
            for (hidden, by_hidden), (batch, by_batch), (length, by_length) in itertools.product(*brackets)
        ]

    def _beyond(self, layers: Sequence[LayerSizes], place: Place) -> str:
        axes = self._axes[place.precision]
        names = ("hidden size", "batch size", "sequence length")
        found = [
            _outside(name, value, nodes[0], nodes[-1])
            for name, value, nodes in zip(names, place.sizes, axes, strict=True)
        ]
        hidden, batch, length = (
            min(max(value, nodes[0]), nodes[-1]) for value, nodes in zip(place.sizes, axes, strict=True)
        )
        inside = self._corners(Place(hidden, batch, length, place.precision))
        for name, block, column in (("heads", "attention", 0), ("FFN width", "ffn", 1)):
            # Between two hidden sizes, whose grids end at different numbers of heads, the end lies in between.
            low, high = (
                sum(weight * end(self._curves[block, corner]) for corner, weight in inside) for end in (min, max)
            )
            found += [_outside(name, size, low, high) for size in sorted({layer[column] for layer in layers} - {0})]
        return ", ".join(words for words in found if words)

    @cached_property
    def _axes(self) -> dict[Precision, tuple[list[int], ...]]:
        """The grid's hidden sizes, batch sizes and sequence lengths."""
        return {
            precision: tuple(
                sorted({entry.place.sizes[axis] for entry in self.entries if entry.precision == precision})
                for axis in range(3)
            )
            for precision in self.precisions
        }

    @cached_property
    def _curves(self) -> dict[tuple[str, Place], dict[int, float]]:
        """Latency by size, never falling; blocks without a size have the single size 0."""
        measured: dict[tuple[str, Place], dict[int, float]] = {}
        for entry in self.entries:
            measured.setdefault((entry.block, entry.place), {})[entry.size] = entry.latency_ms
        return {key: monotone(curve) for key, curve in measured.items()}


def is_lookup_table(document: Any) -> bool:
    """Whether a parsed JSON file is (meant to be) a look-up table."""
    return isinstance(document, Mapping) and document.get("kind") == KIND


def bracket(nodes: Sequence[int], value: float) -> list[tuple[int, float]]:
    """The nodes that `value` is interpolated from, with their weights, which add up to 1.

    Beyond the nodes the line through the nearest two goes on. If there is but one node, cost is taken as proportional:
    the weight is `value / node`.

    Args:
        nodes: ascending.
        value: anywhere.
    """
    if value in nodes:
        return [(int(value), 1.0)]
    if len(nodes) == 1:
        return [(nodes[0], value / nodes[0])]
    upper = min(max(bisect_left(nodes, value), 1), len(nodes) - 1)
    low, high = nodes[upper - 1], nodes[upper]
    share = (value - low) / (high - low)
    return [(low, 1 - share), (high, share)]


def monotone(curve: Mapping[int, float]) -> dict[int, float]:
    """The closest curve (least squares) that never falls."""
    from scipy.optimize import isotonic_regression

    sizes = sorted(curve)
    return dict(zip(sizes, isotonic_regression([curve[size] for size in sizes]).x.tolist(), strict=True))


def _outside(name: str, value: float, low: float, high: float) -> str | None:
    if value > high:
        return f"{name} {value:g} > {high:g}"
    if value < low:
        return f"{name} {value:g} < {low:g}"
    return None
