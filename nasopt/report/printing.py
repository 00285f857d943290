"""Records as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasopt.host.terminal import LINES, printable

Format: TypeAlias = Literal["table", "json", "csv"]
Record: TypeAlias = dict[str, Any]

DIGITS = {"quality": 4, "tfidf": 4, "memory_mb": 2, "duration_s": 1, "hypervolume": 2}
LATENCY_DIGITS = 3
WIDTH = 100
"""Columns of characters that a table takes; what does not fit beside the others stands below them."""
GAP = 2


def print_records(records: Sequence[Record], form: Format, columns: Mapping[str, str], console: Console) -> None:
    """Prints records on stdout.

    Args:
        records: nested at will.
        form: `table` shows `columns` only; `json` an array of the records; `csv` the records flattened.
        columns: heading of each column of the table and the (dotted) key it shows. One that no record has a value for
            is left out.
        console: for the table.
    """
    if form == "json":
        print(json.dumps(records, indent=2))
        return
    flat = [flatten(record) for record in records]
    if form == "csv":
        flat = [{printable(name): _plain(value) for name, value in record.items()} for record in flat]
        names = list(dict.fromkeys(name for record in flat for name in record))
        writer = csv.DictWriter(sys.stdout, names or list(columns.values()), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return
    columns = {head: key for head, key in columns.items() if any(item.get(key) is not None for item in flat)} or columns
    cells = [[head, *(shown(key, record.get(key)) for record in flat)] for head, key in columns.items()]
    for number, block in enumerate(_blocks(cells)):
        if number:
            print(file=console.file)
        _print_block(block, console)


def _blocks(columns: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
    """The columns in tables of at most :data:`WIDTH` characters, each of which begins with the first column.

    A column that is too wide for any table stands alone beside the first one; it is wrapped.
    """
    first, *others = columns
    blocks = [[first]]
    room = WIDTH - _width(first)
    for column in others:
        if _width(column) + GAP > room and len(blocks[-1]) > 1:
            blocks.append([first])
            room = WIDTH - _width(first)
        blocks[-1].append(column)
        room -= _width(column) + GAP
    return blocks


def _width(column: Sequence[str]) -> int:
    return max(map(cell_len, column))


def _print_block(columns: Sequence[Sequence[str]], console: Console) -> None:
    # NOTE: not by rich's Table, which takes 6 s for 10,000 rows.
    widths = [_width(column) for column in columns]
    last = max(WIDTH - sum(widths[:-1]) - GAP * (len(widths) - 1), WIDTH // 3)
    lines: list[str] = []
    for row in zip(*columns, strict=True):
        head = (" " * GAP).join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row[:-1], widths[:-1], strict=True)
        )
        before = head + " " * GAP if head else ""
        pieces = textwrap.wrap(row[-1], last) if widths[-1] > last else [row[-1]]
        for number, piece in enumerate(pieces or [""]):
            lines.append(((" " * cell_len(before) if number else before) + piece).rstrip())
    console.print(lines[0], style="bold", markup=False, highlight=False, soft_wrap=True)
    print("\n".join(lines[1:]), file=console.file, end="\n" if len(lines) > 1 else "")


def print_record(record: Record, form: Format, console: Console) -> None:
    """Prints one record on stdout: an object in JSON, one row in CSV, else a line for each key."""
    if form == "json":
        print(json.dumps(record, indent=2))
    elif form == "csv":
        print_records([record], form, {}, console)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for key, value in record.items():
            table.add_row(key, Text(_sentence(key, value)))  # not a string, whose brackets would be markup
        console.print(table)


def flatten(record: Record, prefix: str = "") -> Record:
    """`{"values": {"quality": 1}}` as `{"values.quality": 1}`."""
    flat: Record = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = None if value == {} else value
    return flat


def shown(key: str, value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    name = key.rpartition(".")[2]
    if isinstance(value, float):
        usual = DIGITS["quality"] if name.isdigit() else LATENCY_DIGITS  # a quality by the number of a vector's entries
        return f"{value:.{DIGITS.get(name, usual)}f}"
    return printable(str(value))


def _plain(value: object) -> object:
    """A value as a CSV file holds it: lines may be broken, but no character steers the terminal that shows it."""
    return printable(value, keep=LINES) if isinstance(value, str) else value


def _sentence(key: str, value: object) -> str:
    """A nested value of `study show` on one line."""
    if not isinstance(value, dict):
        return shown(key, value)
    return ", ".join(_items(value)) or "-"


def _items(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{printable(name)} {shown(name, value['value'])} (trial {value['trial']})"
        else:
            yield f"{printable(name)} {shown(name, value)}"
