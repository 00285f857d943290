"""Reads several labels for each text: a column of lists, or a column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from datasets import Dataset
from torch import Tensor

from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, choices
from nasopt.tasks.labels import plain_name
from nasopt.tasks.texts import is_missing, kind_of, refuse_rows

_SHOWN = 10
_YES, _NO = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})


@dataclass(frozen=True)
class LabelSets:
    """The labels of every split.

    Attributes:
        names: the labels in the order of their ids.
        targets: by role 1 where a text has a label, else 0; float32, shape (examples, labels).
        remarks: sentences about decisions that could have been made otherwise.
    """

    names: tuple[str, ...]
    targets: Mapping[str, Tensor]
    remarks: tuple[str, ...] = ()


def read_label_sets(data: Mapping[str, Dataset], config: TaskConfig, head: Sequence[str] | None) -> LabelSets:
    """The labels as the data name them, or as a trained head does.

    Args:
        data: the splits by role.
        config: the study file's `[task]`.
        head: the labels of the model's head in the order of their ids, if it is to be used.

    Raises:
        DatasetError: a label is missing, of another kind or none of the known ones, or there are fewer than two.
    """
    columns = config.dataset.labels
    if columns is not None:
        found = {role: _of_columns(split, role, columns) for role, split in data.items()}
        names: tuple[str, ...] = columns
    else:
        found = {role: _of_lists(split, role, config.dataset.label) for role, split in data.items()}
        names = _declared(data["train"], config.dataset.label) or tuple(
            sorted({label for labels in found["train"] for label in labels})
        )
    if len(names) < 2:
        raise DatasetError(f"task.dataset.label: the training split has fewer than two labels ({choices(names)})")
    final = names if head is None else tuple(head)
    ids = {plain_name(name): index for index, name in enumerate(final)}
    if len(ids) < len(final):
        raise DatasetError(f"task.dataset.label: two of the labels differ only in case or blanks: {choices(final)}")
    _check_known(found, ids, final, of_head=head is not None)
    targets = {role: _targets(sets, ids) for role, sets in found.items()}
    without = [name for name, count in zip(final, targets["train"].sum(dim=0).tolist(), strict=True) if not count]
    remarks = (f"no text of the training split has the labels {choices(without[:_SHOWN])}",) if without else ()
    return LabelSets(final, targets, remarks)


def _check_known(
    found: Mapping[str, Sequence[Sequence[str]]], ids: Mapping[str, int], names: Sequence[str], *, of_head: bool
) -> None:
    for role, sets in found.items():
        unknown = sorted({label for labels in sets for label in labels if plain_name(label) not in ids})
        if unknown:
            whose = "the labels of the model's head" if of_head else "the labels of the training split"
            cure = "; rename them, or set task.new_head = true to train a new head" if of_head else ""
            raise DatasetError(
                f"task.dataset.label: the {role} split has the labels {choices(unknown[:_SHOWN])}, which are not "
                f"among {whose} ({choices(names[:_SHOWN])}){cure}"
            )


def _targets(sets: Sequence[Sequence[str]], ids: Mapping[str, int]) -> Tensor:
    targets = torch.zeros(len(sets), len(ids))
    for row, labels in enumerate(sets):
        for label in labels:
            targets[row, ids[plain_name(label)]] = 1
    return targets


def _declared(split: Dataset, column: str) -> tuple[str, ...]:
    """The labels in the order that the data set itself gives; empty where it gives none."""
    inner = getattr(split.features[column], "feature", None)
    return tuple(map(str.strip, inner.names)) if isinstance(inner, datasets.ClassLabel) else ()


def _of_lists(split: Dataset, role: str, column: str) -> list[list[str]]:
    values: list[Any] = split[column][:]
    odd = next((value for value in values if value is not None and not isinstance(value, list)), None)
    if odd is not None:
        raise DatasetError(
            f"task.dataset.label: the column `{column}` of the {role} split holds labels of the kind {kind_of(odd)}; "
            "several labels are a list for each text (json, parquet), or a column of 0 and 1 for each label, named in "
            "task.dataset.labels"
        )
    absent = [value is None or any(is_missing(label) for label in value) for value in values]
    refuse_rows("label", role, column, absent, "missing", "a text without labels has the empty list")
    wrong = [any(not isinstance(label, str | int) for label in value) for value in values]
    refuse_rows("label", role, column, wrong, "unreadable", "a label is a text or a whole number")
    names = _declared(split, column)
    if names:
        return [[names[label] for label in value] for value in values]
    return [[str(label).strip() for label in value] for value in values]


def _of_columns(split: Dataset, role: str, columns: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(len(split))]
    for column in columns:
        written = [str(value).strip().lower() for value in split[column][:]]
        refuse_rows(
            "label", role, column, [value not in _YES | _NO for value in written], "unreadable", "0 or 1 is wanted"
        )
        for labels, value in zip(found, written, strict=True):
            if value in _YES:
                labels.append(column)
    return found
