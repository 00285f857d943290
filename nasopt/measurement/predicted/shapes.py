"""Shapes to predict, or to calibrate with, from a CSV file: one forward pass of equal layers in each row."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from nasopt.errors import NasoptError, choices
from nasopt.measurement.predicted.transformer_cost import Workload

SIZES = ("layers", "hidden_size", "heads", "ffn_size", "sequence_length", "batch_size")
"""The columns that every file has; they hold whole numbers of at least 1."""
TEXTS = ("source", "device", "runtime", "precision")
"""The columns that may be missing or empty."""
LARGEST = 1_000_000
"""The largest value of any size; a larger one means that the file is wrong, not that the model is large."""


class ShapesFileError(NasoptError):
    """A file of shapes that is missing or malformed."""


class ShapeError(NasoptError):
    """A shape that no model has."""


@dataclass(frozen=True)
class ShapeRow:
    """One row of a file of shapes. A field that was not given is empty, or None.

    Args:
        number: The row's number, counted from 1 without the heading.
        fields: The row as it was read, for printing it again.
        sizes: Its columns of :data:`SIZES`.
        latency_ms: The measured latency, where calibration needs it.
    """

    number: int
    fields: dict[str, str]
    sizes: dict[str, int]
    workload: Workload
    source: str
    device: str
    runtime: str
    precision: str
    latency_ms: float | None = None


def head_size_of(hidden_size: int, heads: int) -> int:
    """The size of each head in a shape that is not pruned.

    Raises:
        ShapeError: the heads do not divide the hidden size.
    """
    if hidden_size % heads:
        raise ShapeError(
            f"{heads} heads do not divide the hidden size {hidden_size}: name the size of a head (--head-size, or the "
            "column head_size)"
        )
    return hidden_size // heads


def read_shapes(path: Path, *, measured: bool = False) -> list[ShapeRow]:
    """Reads a CSV file (UTF-8, with a heading) that has at least the columns of :data:`SIZES`.

    Args:
        path: The file.
        measured: Whether the column `latency_ms` is needed; otherwise it is ignored.

    Raises:
        ShapesFileError: the file cannot be read, lacks a column, or a row holds what is not a number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            heading = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not CSV in UTF-8"
        raise ShapesFileError(f"{path}: the shapes cannot be read ({reason})") from None
    needed = (*SIZES, *(("latency_ms", *TEXTS) if measured else ()))
    missing = [name for name in needed if name not in heading]
    if missing:
        raise ShapesFileError(f"{path}: the column {choices(missing)} is missing; shapes have {choices(needed)}")
    if not rows:
        raise ShapesFileError(f"{path}: there is no row below the heading")
    return [_row(path, number, fields, measured) for number, fields in enumerate(rows, start=1)]


def _row(path: Path, number: int, fields: dict[str, str], measured: bool) -> ShapeRow:
    where = f"{path}: row {number}"
    sizes = {name: _whole(where, name, fields.get(name)) for name in SIZES}
    text = {name: (fields.get(name) or "").strip() for name in TEXTS}
    try:
        given = (fields.get("head_size") or "").strip()
        size = _whole(where, "head_size", given) if given else head_size_of(sizes["hidden_size"], sizes["heads"])
        workload = uniform_workload(sizes, size)
    except ShapeError as error:
        raise ShapeError(f"{where}: {error}") from None
    shown = {name: value for name, value in fields.items() if isinstance(name, str) and name != "latency_ms"}
    latency = _positive(where, "latency_ms", fields.get("latency_ms")) if measured else None
    return ShapeRow(number, shown, sizes, workload, **text, latency_ms=latency)


def uniform_workload(sizes: dict[str, int], head_size: int) -> Workload:
    """The pass that the columns of :data:`SIZES` describe.

    Raises:
        ShapeError: a size is larger than any model's.
    """
    for name, value in (sizes | {"head_size": head_size}).items():
        if value > LARGEST:
            raise ShapeError(f"{name} = {value} must be at most {LARGEST}")
    shape = (sizes["layers"], sizes["hidden_size"], sizes["heads"], head_size, sizes["ffn_size"])
    return Workload.uniform(*shape, length=sizes["sequence_length"], batch=sizes["batch_size"])


def _whole(where: str, name: str, text: str | None) -> int:
    value = _positive(where, name, text)
    if value != int(value):
        raise ShapesFileError(f"{where}: {name} = {text!r} must be a whole number of at least 1")
    return int(value)


def _positive(where: str, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise ShapesFileError(f"{where}: {name} = {text or ''!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise ShapesFileError(f"{where}: {name} = {text!r} must be greater than 0 and finite")
    return value
