"""Finds the local files that hold a split, and reads their rows as they are written.

A folder holds split x as `x.csv`, `x.tsv`, `x.json`, `x.jsonl` or `x.parquet`, as a folder `x/` that `datasets` saved,
or in parts as on the hub, `x-00000-of-00002.parquet`. The files may also lie in `data/`, or in a folder named like
`task.dataset.name`. Cells of csv files are read as text; only labels become numbers, if all of them are plain ones.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from nasopt.config.task import DatasetConfig
from nasopt.errors import DatasetError, choices

BUILDERS: Mapping[str, str] = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
SAVED_FOLDER, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""The file by which a folder that `datasets` saved is known: one with a single split, and one with several."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?$")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?|[-+]?(inf|nan)", re.IGNORECASE)


def read_local(config: DatasetConfig, base: str) -> Dataset:
    """All rows of a local split, whatever slice of it is wanted.

    Args:
        config: the data set, whose path exists.
        base: the split's name; one file, or one saved folder, holds every split.

    Raises:
        DatasetError: there is no such split, there are two, or a part of it is missing.
        ValueError: a file is malformed, which may also raise `OSError`, `csv.Error` or an error of `datasets`.
    """
    root = Path(config.path)
    if (root / SAVED_SPLITS).is_file():
        splits = datasets.load_from_disk(str(root))
        if base not in splits:
            raise no_such_split(config, base, splits)
        return splits[base]
    if (root / SAVED_FOLDER).is_file():
        return datasets.load_from_disk(str(root))
    files = split_files(config, base) if root.is_dir() else [root]
    if files[0].is_dir():
        return datasets.load_from_disk(str(files[0]))
    suffix = files[0].suffix.lower()
    if suffix not in BUILDERS:
        raise DatasetError(f"task.dataset.path: {root}: not a {choices(BUILDERS)} file")
    if config.delimiter is not None and suffix not in DELIMITERS:
        raise DatasetError(f"task.dataset.delimiter: {files[0]} is no {choices(DELIMITERS)} file")
    if suffix in DELIMITERS:
        return _read_cells(files, config.delimiter or DELIMITERS[suffix], config.label)
    table = _load(BUILDERS[suffix], files)
    table.data.table.validate(full=True)  # else bytes that are not UTF-8 would fail only when a text is read
    return table


def split_files(config: DatasetConfig, base: str) -> list[Path]:
    """The files that hold a split in a folder, in their order; or the one folder that `datasets` saved.

    Raises:
        DatasetError: there are none, a part is missing, or the split is there twice.
    """
    root = Path(config.path)
    existing: set[str] = set()
    for folder in (*([root / config.name] if config.name else []), root, root / "data"):
        found = _splits_of(folder)
        if base in found:
            return _only_source(config, base, found[base])
        existing |= set(found)
    raise no_such_split(config, base, existing)


def no_such_split(config: DatasetConfig, name: str, existing: Any) -> DatasetError:
    """The error of a split that does not exist."""
    found = choices(sorted(existing)) or "none"
    return DatasetError(f"task.dataset.splits: {config.path} has no split `{name}`; it has: {found}")


def not_utf8(files: Sequence[Path]) -> str | None:
    """Names the first line that is not UTF-8, and its file; None if all files are UTF-8."""
    for file in files:
        content = file.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            return f"{file}: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
    return None


def _splits_of(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The data files of a folder, by split and kind of file."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and (path / SAVED_FOLDER).is_file():
            found[path.name]["a saved folder"].append(path)
        elif path.is_file() and path.suffix.lower() in BUILDERS:
            part = _PART.search(path.stem)
            split = path.stem[: part.start()] if part else path.stem
            found[split][f"{path.suffix.lower()} in parts" if part else path.name].append(path)
    return found


def _only_source(config: DatasetConfig, base: str, sources: Mapping[str, list[Path]]) -> list[Path]:
    """The files of a split, which has a single source with no part missing.

    Raises:
        DatasetError: there are several sources, or a part is missing.
    """
    if len(sources) > 1:
        first = [str(files[0].relative_to(config.path)) for files in sources.values()]
        raise DatasetError(
            f"task.dataset.splits: {config.path} has the split `{base}` more than once, in {' and '.join(first)}; "
            "leave one of them there"
        )
    (files,) = sources.values()
    parts = [part.groups() for file in files if (part := _PART.search(file.stem))]
    totals = {int(total) for _, total, _ in parts}
    if parts and (len(totals) > 1 or sorted(int(number) for number, *_ in parts) != list(range(max(totals)))):
        raise DatasetError(
            f"task.dataset.splits: {config.path}: the split `{base}` has {len(parts)} of {max(totals)} parts; "
            f"{files[0].name} is one of them"
        )
    return files


def _load(builder: str, files: Sequence[Path], **options: Any) -> Dataset:
    return datasets.load_dataset(builder, data_files={"rows": [str(file) for file in files]}, split="rows", **options)


def _read_cells(files: Sequence[Path], delimiter: str, label: str) -> Dataset:
    """The rows of csv files, with all cells as text, except labels that are all numbers."""
    names = _first_line(files, delimiter)
    features = datasets.Features({name: datasets.Value("string") for name in names})
    table = _load(
        "csv",
        files,
        sep=delimiter,
        encoding="utf-8-sig",
        keep_default_na=False,  # "null" and "NA" are words, too
        features=features,
    )
    return _with_numbers(table, label) if label in names else table


def _first_line(files: Sequence[Path], delimiter: str) -> list[str]:
    """The names of the columns.

    Raises:
        DatasetError: there are none, or the first row has more cells than there are names.
    """
    for file in files:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = (row for row in csv.reader(stream, delimiter=delimiter) if row)
            names, first = next(rows, []), next(rows, [])
        if not names:
            raise DatasetError(f"task.dataset: {file} is empty")
        if len(first) > len(names):
            # NOTE: pandas would take the surplus for an index, and every cell for that of the column before.
            raise DatasetError(
                f"task.dataset: {file}: the first line names {len(names)} columns, but row 0 has {len(first)} cells; "
                "put texts that hold the delimiter in quotes"
            )
    return names


def _with_numbers(table: Dataset, column: str) -> Dataset:
    """The table with a column as numbers if every cell is one as a person writes it, which `01`, a code, is not."""
    cells = [cell.strip() if cell else "" for cell in table[column][:]]
    if not cells or not all(map(_NUMBER.fullmatch, cells)):
        return table
    read = int if all(map(_WHOLE.fullmatch, cells)) else float
    try:
        return table.remove_columns(column).add_column(column, [read(cell) for cell in cells])
    except OverflowError:  # a number beyond 64 bits is an identifier
        return table
