"""Opens data sets (hub ids, local folders and files), with errors that say what exists."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
from datasets import Dataset

from nasopt.config.task import DatasetConfig
from nasopt.errors import DatasetError, choices
from nasopt.tasks.files import not_utf8, read_local, split_files
from nasopt.tasks.texts import check_texts

ROLES = ("train", "validation", "test")


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


def load_splits(
    config: DatasetConfig, columns: Sequence[str], *, are_texts: bool = True, roles: Sequence[str] = ROLES
) -> dict[str, Dataset]:
    """Opens the splits a study uses, under the keys ``train``, ``validation`` and, if named, ``test``.

    Args:
        config: the data set and its splits.
        columns: the columns that each split must have.
        are_texts: whether the text columns hold texts, which are checked, and no lists of words.
        roles: the splits that are opened.

    Raises:
        DatasetError: the data set, a split or a column does not exist, a split is empty, or a text is missing or of
            another type.
    """
    names = {role: name for role, name in config.splits if role in roles and name is not None}
    limits = config.max_samples.model_dump()
    result = {}
    for role, name in names.items():
        split = _load_split(config, name)
        _check_columns(config, name, split, columns)
        if limits[role] is not None:
            split = split.select(range(min(limits[role], len(split))))
        if len(split) == 0:
            raise _empty(config, name)
        if are_texts:
            check_texts(split, role, config.text)
        result[role] = split
    return result


def _load_split(config: DatasetConfig, name: str) -> Dataset:
    """One split; `name` may be sliced the way `datasets` does it (``train[:90%]``)."""
    is_local = Path(config.path).exists()
    if config.delimiter is not None and not is_local:
        raise DatasetError(f"task.dataset.delimiter: {config.path} is no file or folder here")
    base = name.partition("[")[0]
    try:
        with _silent():
            if is_local:
                return _sliced(read_local(config, base), name, base)
            return datasets.load_dataset(config.path, config.name, revision=config.revision, split=name)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        reason = "it is neither a local file or folder, nor can it be had from the hub"
        raise DatasetError(f"task.dataset.path: {config.path}: {reason} ({_first_line(error)})") from None
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError, csv.Error) as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise _empty(config, name) from None
        if is_local and (undecoded := _undecoded(config, base)) is not None:
            raise DatasetError(f"task.dataset: {undecoded}") from None
        raise DatasetError(f"task.dataset: {config.path}, split `{name}`: {_first_line(cause)}") from None


def _sliced(split: Dataset, name: str, base: str) -> Dataset:
    """The rows that a name such as ``train[:10%]+train[90%:]`` asks for."""
    if name == base:
        return split
    parts = datasets.ReadInstruction.from_spec(name).to_absolute({base: len(split)})
    return split.select([row for part in parts for row in range(part.from_, part.to)])


def _undecoded(config: DatasetConfig, base: str) -> str | None:
    """Names the text file of a split that is not UTF-8, and the line; None if all of them are UTF-8."""
    root = Path(config.path)
    files = split_files(config, base) if root.is_dir() else [root]
    return not_utf8([file for file in files if file.is_file() and file.suffix.lower() != ".parquet"])


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps the library `datasets` from reporting errors that our one line reports; not while debugging."""
    before = datasets.logging.get_verbosity()
    if not logging.getLogger("nasopt").isEnabledFor(logging.DEBUG):
        datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


def _empty(config: DatasetConfig, name: str) -> DatasetError:
    return DatasetError(f"task.dataset.splits: the split `{name}` of {config.path} is empty")


def _check_columns(config: DatasetConfig, name: str, split: Dataset, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in split.column_names]
    if missing:
        delimiter = "; is task.dataset.delimiter another one?" if len(split.column_names) == 1 else ""
        raise DatasetError(
            f"task.dataset: the split `{name}` of {config.path} has no column {choices(missing)}; "
            f"it has: {choices(split.column_names)}{delimiter}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
