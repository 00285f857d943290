"""Records as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
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
    # NOTE: not by rich's Table, which takes 6 s for 10,000 rows. Long texts are in the last column and may wrap.
    rows = [list(columns), *([shown(key, record.get(key)) for key in columns.values()] for record in flat)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    console.print(lines[0], style="bold", markup=False, highlight=False, soft_wrap=True)
    print("\n".join(lines[1:]), file=console.file, end="\n" if records else "")


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
        return f"{value:.{DIGITS.get(name, LATENCY_DIGITS)}f}"
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
