"""Reads the column of labels, as classes or as numbers, and maps classes to those of a trained head."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import datasets
from datasets import Dataset
from transformers import PretrainedConfig

from nasopt.config.task import SECOND_CLASS, TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError, choices
from nasopt.tasks.texts import ABSENT, is_missing, kind_of, refuse_rows

Label: TypeAlias = str | int | float
POSITIVE_NAMES = frozenset({"1", "true", "yes", "positive", "pos"})
NEGATIONS = ("not ", "non")
NEW_HEAD = "set task.new_head = true to train a new head"
"""The cure for a base model whose head is not of the data's labels."""
TRAIN = "pass --train to train a new head"
"""The same for a model from outside the study."""
SEVERAL_LABELS = 'task.kind = "multi_label_classification" reads several labels for each text'

_WHOLE = re.compile(r"0|[1-9]\d*")
_SHOWN = 10


@dataclass(frozen=True)
class Labels:
    """The classes of a data set's labels, and the class of each label.

    Attributes:
        names: the classes, in the order of their ids; empty for regression.
        ids: the class of each label, by the label as it is written.
        remarks: sentences about decisions that could have been made otherwise.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """The number of a model's outputs: one for each class, one for numbers."""
        return len(self.names) or 1


class LabelColumn:
    """The labels of every split, cleaned and checked, as classes (texts) or as numbers.

    Args:
        data: the splits by role.
        config: the study file's `[task]`.

    Attributes:
        is_classification: whether they are classes.
        values: by role, a text or a finite number for each row.
        declared: the classes in an order that the data set itself gives; None where it gives none.
        order: the classes in the order of their ids; empty for numbers.
        remarks: sentences about decisions, as in :class:`Labels`.

    Raises:
        DatasetError: a label is missing or of another kind, or numbers are wanted and some are not, or all are equal.
    """

    def __init__(self, data: Mapping[str, Dataset], config: TaskConfig) -> None:
        self._column = config.dataset.label
        self.remarks: list[str] = []
        cleaned = {role: self._cleaned(split, role) for role, split in data.items()}
        feature = data["train"].features[self._column]
        self.declared = tuple(map(str.strip, feature.names)) if isinstance(feature, datasets.ClassLabel) else None
        self.is_classification = self._is_classification(cleaned["train"], config.kind)
        if self.is_classification:
            self.values: Mapping[str, Sequence[Label]] = {
                role: self._classes(values, role) for role, values in cleaned.items()
            }
            self.order = self.declared or _in_order(cleaned["train"])
        else:
            self.values = {role: self._numbers(values, role) for role, values in cleaned.items()}
            self.order = ()

    def _cleaned(self, split: Dataset, role: str) -> list[Label]:
        """The labels of a split, none of them missing, without the blanks around them."""
        values: list[Any] = split[self._column][:]
        feature = split.features[self._column]
        if isinstance(feature, datasets.ClassLabel):
            values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        odd = next((value for value in values if value is not None and not isinstance(value, str | int | float)), None)
        if odd is not None:
            raise DatasetError(
                f"task.dataset.label: the column `{self._column}` of the {role} split holds labels of the kind "
                f"{kind_of(odd)}; a label is one class or one number ({SEVERAL_LABELS})"
            )
        stripped = [value.strip() if isinstance(value, str) else value for value in values]
        absent = [is_missing(value) or value == "" or str(value).lower() == "nan" for value in stripped]
        refuse_rows("label", role, self._column, absent, ABSENT)
        with_blanks = sum(value != before for value, before in zip(stripped, values, strict=True))
        if with_blanks and not isinstance(feature, datasets.ClassLabel):
            self.remarks.append(f"blanks around {with_blanks} labels of the {role} split are left out")
        return stripped

    def _is_classification(self, train: Sequence[Label], kind: str | None) -> bool:
        fractions = any(isinstance(value, float) for value in train)
        if kind is not None:
            return kind == "classification"
        if fractions and len(set(train)) == 2:
            shown = choices(sorted(set(train), key=str))
            self.remarks.append(
                f"the labels {shown} are read as numbers (regression), because they have a fraction; "
                'task.kind = "classification" makes them classes'
            )
        return not fractions

    def _classes(self, values: Sequence[Label], role: str) -> list[str]:
        """The labels as they are written; 1.0 is the class 1."""
        fractions = [isinstance(value, float) and not value.is_integer() for value in values]
        refuse_rows("label", role, self._column, fractions, "fractional", "the others are classes; see task.kind")
        return [_written(value) for value in values]

    def _numbers(self, values: Sequence[Label], role: str) -> list[float]:
        numbers = [_number(value) for value in values]
        wrong = [number is None or not math.isfinite(number) for number in numbers]
        if any(wrong):
            example = values[wrong.index(True)]
            cure = f"{example!r} is no number, and the labels are read as numbers; see task.kind"
            refuse_rows("label", role, self._column, wrong, "unreadable", cure)
        found = [number for number in numbers if number is not None]
        if len(set(found)) < 2:
            raise DatasetError(
                f"task.dataset.label: all {len(found)} labels of the {role} split in the column `{self._column}` are "
                f"{found[0]:g}; no correlation with equal numbers exists"
            )
        return found


def read_labels(column: LabelColumn, head: PretrainedConfig | None, cure: str = NEW_HEAD) -> Labels:
    """The classes as the data name them, or as the trained head does; no classes for regression.

    Args:
        column: the labels of every split.
        head: the configuration of the model, if its head is to be used.
        cure: what helps where the head does not fit.

    Raises:
        DatasetError: the training split has one class only, or labels are not the head's classes.
        UnsupportedModelError: the head gives several labels.
    """
    if head is not None:
        _check_head(head, column.is_classification, cure)
    if not column.is_classification:
        return Labels((), remarks=tuple(column.remarks))
    present = sorted({str(value) for value in column.values["train"]})
    if len(present) < 2:
        raise DatasetError(f"task.dataset.label: the training split has one class only ({choices(present)})")
    ids, remarks = {name: index for index, name in enumerate(column.order)}, list(column.remarks)
    labels = Labels(column.order, ids, tuple(remarks + _alike(column.order)))
    if head is not None:
        labels = _of_head(head, column, tuple(remarks), cure)
    for role, values in column.values.items():
        unknown = sorted({str(value) for value in values} - labels.ids.keys())
        if unknown:
            raise DatasetError(
                f"task.dataset.label: the {role} split has the labels {choices(unknown[:_SHOWN])}; "
                f"the classes are {choices(labels.names[:_SHOWN])}"
            )
    return labels


def order_of_classes(head: PretrainedConfig, column: LabelColumn, labels: Labels) -> list[int]:
    """For each of a study's classes the place of its output in another model's head; ``[0]`` for regression.

    Labels are mapped to the head's classes as they are to a base model's.

    Args:
        head: the other model's configuration.
        column: the labels of every split.
        labels: the study's classes.

    Raises:
        DatasetError, UnsupportedModelError: the head is not of these classes.
    """
    its = read_labels(column, head, TRAIN)
    if its.num_outputs != labels.num_outputs:
        raise UnsupportedModelError(
            f"its head has {its.num_outputs} classes ({choices(its.names[:_SHOWN])}), and the study has "
            f"{labels.num_outputs} ({choices(labels.names[:_SHOWN])}); {TRAIN}"
        )
    if not labels.names:
        return [0]
    pairs = {(labels.ids[label], place) for label, place in its.ids.items() if label in labels.ids}
    found = dict(pairs)
    if len(found) < len(pairs) or len(set(found.values())) < len(found):
        raise UnsupportedModelError(f"two of the study's classes are one of its head's, or the reverse; {TRAIN}")
    # Classes that no text has: any order of them gives the same quality.
    left = iter(place for place in range(len(its.names)) if place not in found.values())
    return [found[index] if index in found else next(left) for index in range(len(labels.names))]


def order_by_name(head: PretrainedConfig, labels: Sequence[str]) -> list[int]:
    """For each label of a study the place of its output in another model's head, by name without case and blanks.

    Raises:
        UnsupportedModelError: the head is not of these labels.
    """
    names = names_of_head(head)
    places = {plain_name(name): place for place, name in enumerate(names)}
    if sorted(places) != sorted(map(plain_name, labels)):
        raise UnsupportedModelError(
            f"its head has the labels {choices(names[:_SHOWN])}, and the study has {choices(labels[:_SHOWN])}; {TRAIN}"
        )
    return [places[plain_name(label)] for label in labels]


def positive_class(names: Sequence[str], wanted: str | None) -> int:
    """The class, of two, that F1 is computed for: the one that is wanted, else the one that the names call positive.

    Raises:
        DatasetError: the wanted one is no class, or the names do not settle it.
    """
    if wanted == SECOND_CLASS:
        return 1
    plain = [plain_name(name) for name in names]
    if wanted is not None:
        found = [names.index(wanted)] if wanted in names else _positions(plain, plain_name(wanted))
        if len(found) == 1:
            return found[0]
        raise DatasetError(f"task.positive_label: {wanted!r} is not a class; the classes are {choices(names)}")
    called = [index for index, name in enumerate(plain) if name in POSITIVE_NAMES]
    negated = [index for index, name in enumerate(names) if name.strip().lower().startswith(NEGATIONS)]
    settled = {*called} or {1 - index for index in negated}
    if len(settled) == 1:
        return settled.pop()
    raise DatasetError(
        f"task.positive_label: f1 of the two classes {choices(names)} is that of one of them; name it, or choose the "
        "metric f1_macro"
    )


def plain_name(name: str) -> str:
    """A class's name without case and blanks."""
    return "".join(name.casefold().split())


def _positions(items: Sequence[str], wanted: str) -> list[int]:
    return [index for index, item in enumerate(items) if item == wanted]


def _check_head(head: PretrainedConfig, is_classification: bool, cure: str) -> None:
    if head.problem_type == "multi_label_classification":
        raise UnsupportedModelError(
            f"the model's head has problem_type = multi_label_classification, but texts have one label each; {cure}"
        )
    if head.problem_type == "regression" and head.num_labels > 1:
        raise UnsupportedModelError(
            f"the model's head has problem_type = regression and {head.num_labels} outputs; one is supported; {cure}"
        )
    if not is_classification and head.num_labels != 1:
        raise DatasetError(
            f"task.dataset.label: holds numbers, but the model's head has {head.num_labels} classes; {cure}"
        )
    if is_classification and head.num_labels == 1:
        raise DatasetError(
            'task.dataset.label: holds classes, but the model\'s head gives one number; set task.kind = "regression" '
            f"if the labels are scores, or {cure.removeprefix('set ')}"
        )


def _of_head(head: PretrainedConfig, column: LabelColumn, remarks: tuple[str, ...], cure: str) -> Labels:
    """The head's classes, with the data's labels mapped to them by name, or by number where there are no names.

    Raises:
        DatasetError: the data have labels that are not the head's classes.
    """
    names = names_of_head(head)
    written = list(
        dict.fromkeys([*column.order, *(str(value) for values in column.values.values() for value in values)])
    )
    used = {str(value) for values in column.values.values() for value in values}
    if set(written) <= set(names):
        return Labels(names, {name: names.index(name) for name in written}, remarks)
    plain = [plain_name(name) for name in names]
    if len(set(plain)) == len(plain) and {plain_name(name) for name in used} <= set(plain):
        ids = {name: plain.index(plain_name(name)) for name in written if plain_name(name) in plain}
        return Labels(names, ids, (*remarks, f"labels are the head's classes by name: {_pairs(ids, names)}"))
    ids = _by_number(used, names, column.declared)
    if ids:
        return Labels(names, ids, (*remarks, f"labels are the head's classes by number: {_pairs(ids, names)}"))
    raise DatasetError(
        f"task.dataset.label: the labels {choices(sorted(used)[:_SHOWN])} are not the classes of the model's head "
        f"({choices(names[:_SHOWN])}); rename them, or {cure}"
    )


def _by_number(used: set[str], names: Sequence[str], declared: Sequence[str] | None) -> dict[str, int]:
    """The classes by number, if labels and head allow it; else none.

    They do if the labels are all the numbers of the head's classes, or if the head only counts its classes (LABEL_0)
    and the data set declares as many in an order.
    """
    if all(map(_WHOLE.fullmatch, used)) and {int(name) for name in used} == set(range(len(names))):
        return {name: int(name) for name in sorted(used, key=int)}
    is_counted = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    if is_counted and declared is not None and len(declared) == len(names):
        return {name: index for index, name in enumerate(declared)}
    return {}


def names_of_head(head: PretrainedConfig) -> tuple[str, ...]:
    """The classes of a trained head, in the order of their ids.

    Raises:
        UnsupportedModelError: an id has no name, or two have the same.
    """
    try:
        names = tuple(str(head.id2label[index]).strip() for index in range(head.num_labels))
    except KeyError as error:
        raise UnsupportedModelError(f"the model's configuration: id2label has no class {error}") from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UnsupportedModelError(f"the model's configuration: id2label has the class {twice[0]!r} more than once")
    return names


def _pairs(ids: Mapping[str, int], names: Sequence[str]) -> str:
    return choices([f"{label} is {names[index]}" for label, index in ids.items()][:_SHOWN])


def _in_order(train: Iterable[Label]) -> tuple[str, ...]:
    """The distinct labels: numbers by size, before texts by the alphabet."""
    distinct = sorted(set(train), key=lambda value: (isinstance(value, str), value))
    return tuple(dict.fromkeys(map(_written, distinct)))


def _alike(names: Sequence[str]) -> list[str]:
    """A remark on classes that differ only in case or blanks, if there are any."""
    found = defaultdict(list)
    for name in names:
        found[plain_name(name)].append(name)
    groups = [choices(group) for group in found.values() if len(group) > 1]
    return [f"different classes with nearly the same name: {'; '.join(groups)}"] if groups else []


def _written(value: Label) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def _number(value: Label) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None
