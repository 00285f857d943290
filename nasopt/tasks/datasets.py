"""Opening a data set: hub ids, local folders and files, with errors that say what exists."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets import Dataset

from nasopt.config.task import DatasetConfig
from nasopt.errors import DatasetError, choices

BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def resolve_path(path: str) -> str:
    """An absolute path where `path` exists here, else (a hub id) `path` itself. Links keep their names."""
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() else path


def content_hash(path: str) -> str | None:
    """SHA-256 over names and contents of a local file or of a folder's files; None for a hub id."""
    root = Path(path)
    if not root.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts):
            digest.update(str(file.relative_to(root)).encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_splits(config: DatasetConfig, columns: Sequence[str]) -> dict[str, Dataset]:
    """Opens the splits a study uses, under the keys ``train``, ``validation`` and, if named, ``test``.

    Args:
        config: where they are.
        columns: which ones each must have.

    Raises:
        DatasetError: the data set, a split or a column does not exist, or a split is empty.
    """
    names = {"train": config.splits.train, "validation": config.splits.validation}
    if config.splits.test is not None:
        names["test"] = config.splits.test
    limits = config.max_samples.model_dump()
    result = {}
    for role, name in names.items():
        split = _load_split(config, name)
        _check_columns(config, name, split, columns)
        if limits[role] is not None:
            split = split.select(range(min(limits[role], len(split))))
        if len(split) == 0:
            raise _empty(config, name)
        result[role] = split
    return result


def check_pairs(split: Dataset, role: str, columns: Sequence[str]) -> None:
    """Refuses pairs of which one half is empty.

    Raises:
        DatasetError: says how many, and where the first is.
    """
    for column in columns:
        empty = [row for row, text in enumerate(split[column]) if text is None or not str(text).strip()]
        if empty:
            raise DatasetError(
                f"task.dataset.text: the {role} split has {len(empty)} empty texts in the column `{column}` "
                f"(the first in row {empty[0]}, counted from 0); remove these pairs"
            )


def _load_split(config: DatasetConfig, name: str) -> Dataset:
    """One split; `name` may be sliced the way `datasets` does it (``train[:90%]``)."""
    root = Path(config.path)
    try:
        if not root.exists():
            return datasets.load_dataset(config.path, config.name, revision=config.revision, split=name)
        if (root / "dataset_dict.json").is_file():
            return _pick(datasets.load_from_disk(str(root)), config, name)
        file = _local_file(config, name) if root.is_dir() else root
        options = {"keep_default_na": False} if file.suffix == ".csv" else {}  # "null" and "NA" are words, too
        base = name.partition("[")[0]
        return datasets.load_dataset(_builder(file), data_files={base: str(file)}, split=name, **options)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        reason = "it is neither a local file or folder, nor can it be had from the hub"
        raise DatasetError(f"task.dataset.path: {config.path}: {reason} ({_first_line(error)})") from None
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise _empty(config, name) from None
        raise DatasetError(f"task.dataset: {config.path}, split `{name}`: {_first_line(cause)}") from None


def _pick(splits: datasets.DatasetDict, config: DatasetConfig, name: str) -> Dataset:
    if name not in splits:
        raise _no_such_split(config, name, list(splits))
    return splits[name]


def _local_file(config: DatasetConfig, name: str) -> Path:
    """The file that holds split x in a folder: x.csv, x.json, x.jsonl or x.parquet."""
    base = name.partition("[")[0]
    files = {path.stem: path for path in sorted(Path(config.path).iterdir()) if path.suffix in BUILDERS}
    if base not in files:
        raise _no_such_split(config, base, list(files))
    return files[base]


def _builder(file: Path) -> str:
    if file.suffix not in BUILDERS:
        raise DatasetError(f"task.dataset.path: {file}: not a {choices(BUILDERS)} file")
    return BUILDERS[file.suffix]


def _no_such_split(config: DatasetConfig, name: str, existing: list[str]) -> DatasetError:
    found = choices(sorted(existing)) or "none"
    return DatasetError(f"task.dataset.splits: {config.path} has no split `{name}`; it has: {found}")


def _empty(config: DatasetConfig, name: str) -> DatasetError:
    return DatasetError(f"task.dataset.splits: the split `{name}` of {config.path} is empty")


def _check_columns(config: DatasetConfig, name: str, split: Dataset, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in split.column_names]
    if missing:
        raise DatasetError(
            f"task.dataset: the split `{name}` of {config.path} has no column {choices(missing)}; "
            f"it has: {choices(split.column_names)}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
