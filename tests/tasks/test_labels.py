"""Labels: classes and numbers, refusals, and the classes of a trained head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from nasopt.config.task import SECOND_CLASS, TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.tasks.labels import LabelColumn, Labels, order_by_name, order_of_classes, positive_class, read_labels


def read(train: Sequence[Any], validation: Sequence[Any] | None = None, head: Any = None, **task: Any) -> Labels:
    """The reading of labels, with the classes of a head or without one."""
    return read_labels(column_of(train, validation, **task), None if head is None else configuration(head))


def column_of(train: Sequence[Any], validation: Sequence[Any] | None = None, **task: Any) -> LabelColumn:
    data = {
        role: values if isinstance(values, datasets.Dataset) else datasets.Dataset.from_dict({"label": list(values)})
        for role, values in {"train": train, "validation": train if validation is None else validation}.items()
    }
    document = {"model": "m", "dataset": {"path": "d", "text": ["text"]}, **task}
    return LabelColumn(data, TaskConfig.model_validate(document))


def configuration(names: Sequence[str], **settings: Any) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}, **settings)


def declared(names: list[str], ids: list[int]) -> datasets.Dataset:
    """Labels whose data set names the classes."""
    features = datasets.Features(label=datasets.ClassLabel(names=names))
    return datasets.Dataset.from_dict({"label": ids}, features=features)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9"], ("10", "9")),
        ([True, False], ("False", "True")),
        (["b ", "a", "\tb"], ("a", "b")),
        (declared(["no", "yes"], [1, 0]), ("no", "yes")),
        (declared(["yes", "maybe", "no"], [0, 2]), ("yes", "maybe", "no")),
    ],
)
def test_classes_are_named_as_they_are_written(values: Any, names: tuple[str, ...]) -> None:
    labels = read(values)
    assert labels.names == names
    assert labels.ids == {name: index for index, name in enumerate(names)}


def test_blanks_and_near_names_are_said() -> None:
    assert read(["a ", "b"], ["a", "b"]).remarks == ("blanks around 1 labels of the train split are left out",)
    assert read(["Good", "good", "bad"]).remarks == ("different classes with nearly the same name: Good, good",)


def test_fractions_are_numbers_unless_said_otherwise() -> None:
    column = column_of([1.0, 0.0])
    assert not column.is_classification
    assert column.values["train"] == [1.0, 0.0]
    assert read_labels(column, None).names == ()
    assert "0.0, 1.0 are read as numbers" in column.remarks[0]
    assert read([1.0, 0.0], [1, 0], kind="classification").names == ("0", "1")
    with pytest.raises(DatasetError, match=r"1 fractional labels .*row 1"):
        read([1.0, 0.5], kind="classification")


def test_whole_numbers_are_regressed_if_wanted() -> None:
    scores = {"kind": "regression", "metric": "spearmanr"}
    column = column_of([1, 2, 5], declared(["1", "4"], [0, 1]), **scores)
    assert column.values == {"train": [1.0, 2.0, 5.0], "validation": [1.0, 4.0]}
    assert read_labels(column, None).num_outputs == 1
    assert read([1, 2], head=["score"], **scores).names == ()
    with pytest.raises(DatasetError, match=r"validation split has 1 unreadable labels .*row 1.*'much' is no number"):
        column_of(["1", "2"], ["1", "much"], **scores)
    with pytest.raises(DatasetError, match="1 unreadable labels"):
        column_of([0.5, float("inf")])


@pytest.mark.parametrize("role", ["train", "validation"])
def test_equal_numbers_are_refused_before_any_training(role: str) -> None:
    values = {"train": [0.5, 1.0], "validation": [0.5, 1.0]} | {role: [0.5, 0.5]}
    with pytest.raises(DatasetError, match=f"all 2 labels of the {role} split in the column `label` are 0.5"):
        column_of(values["train"], values["validation"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["a", "b", None], "1 empty labels in the column `label` .*row 2"),
        (["a", "", "b", " "], "2 empty labels in the column `label` .*row 1"),
        (["a", "nan", "b"], "1 empty labels .*row 1"),
        ([1.0, float("nan"), 0.0], "1 empty labels .*row 1"),
        (declared(["a", "b"], [0, -1, 1]), "1 empty labels .*row 1"),
        ([["a"], ["a", "b"]], "holds labels of the kind list; .*several labels"),
        ([{"a": 1}, {"a": 0}], "holds labels of the kind dict.*several labels"),
        (["a", "a"], r"one class only \(a\)"),
        (declared(["a", "b"], [1, 1]), r"one class only \(b\)"),
    ],
)
def test_labels_that_are_none_are_told_where_they_are(values: Any, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        read(values)


def test_other_splits_have_no_class_of_their_own() -> None:
    with pytest.raises(DatasetError, match="validation split has the labels c; the classes are a, b"):
        read(["a", "b"], ["a", "c"])
    assert read(declared(["a", "b"], [0, 1]), declared(["b", "a"], [0, 1])).names == ("a", "b")


@given(st.permutations(["NEGATIVE", "Very Positive", "neutral"]), st.randoms())
def test_a_head_takes_labels_by_name_whatever_case_blanks_and_order(head: list[str], random: Any) -> None:
    spelt = [random.choice([name, name.lower(), name.upper(), name.replace(" ", ""), f" {name} "]) for name in head]
    labels = read(sorted(spelt), head=head)
    assert labels.names == tuple(head)
    assert [labels.ids[name.strip()] for name in spelt] == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "head", "ids", "said"),
    [
        (["no", "yes"], ["YES", "NO"], {"no": 1, "yes": 0}, ["by name: no is NO, yes is YES"]),
        (declared(["no", "yes"], [0, 1]), ["YES", "NO"], {"no": 1, "yes": 0}, ["by name: no is NO, yes is YES"]),
        ([0, 1], ["bad", "good"], {"0": 0, "1": 1}, ["by number: 0 is bad, 1 is good"]),
        ([1, 0], ["LABEL_0", "LABEL_1"], {"0": 0, "1": 1}, ["by number: 0 is LABEL_0, 1 is LABEL_1"]),
        (declared(["b", "a"], [0, 1]), ["LABEL_0", "LABEL_1"], {"b": 0, "a": 1}, ["by number: b is LABEL_0, a is "]),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], {"LABEL_0": 0, "LABEL_1": 1}, []),
        ([2, 1], ["1", "2", "3"], {"1": 0, "2": 1}, []),
        (["good", "bad"], ["Good", "good ", "bad"], {"bad": 2, "good": 1}, []),
    ],
)
def test_labels_are_mapped_to_a_head_and_how_is_said(
    values: Any, head: list[str], ids: dict[str, int], said: list[str]
) -> None:
    labels = read(values, head=head)
    assert labels.ids == ids
    assert len(labels.remarks) == len(said)
    assert all(words in remark for words, remark in zip(said, labels.remarks, strict=True))


@pytest.mark.parametrize(
    ("values", "head"),
    [
        (["hate", "normal"], ["normal", "hate speech"]),
        ([1, 2, 3, 4], ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]),
        ([1, 2, 3, 4], [f"LABEL_{index}" for index in range(5)]),
        ([0, 1, 2], ["bad", "good"]),
        (["neg", "pos"], ["LABEL_0", "LABEL_1"]),
        (declared(["neg", "pos"], [0, 1]), ["NEGATIVE", "POSITIVE"]),
        (declared(["neg", "pos"], [0, 1]), ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ([True, False], ["bad", "good"]),
        (["01", "00"], ["bad", "good"]),
        (["GOOD", "bad"], ["Good", "good", "bad"]),
    ],
)
def test_labels_that_are_not_the_heads_are_refused(values: Any, head: list[str]) -> None:
    with pytest.raises(DatasetError, match="are not the classes of the model's head"):
        read(values, head=head)


def test_heads_of_another_kind_are_refused_by_name() -> None:
    column = column_of(["a", "b"])
    with pytest.raises(UnsupportedModelError, match="multi_label_classification, but texts have one label"):
        read_labels(column, configuration(["a", "b"], problem_type="multi_label_classification"))
    with pytest.raises(UnsupportedModelError, match="problem_type = regression and 2 outputs"):
        read_labels(column, configuration(["a", "b"], problem_type="regression"))
    with pytest.raises(UnsupportedModelError, match="the class 'a' more than once"):
        read(["a", "b"], head=["a", "a"])
    with pytest.raises(DatasetError, match=r'gives one number; set task.kind = "regression"'):
        read([1, 2], head=["score"])
    with pytest.raises(DatasetError, match="holds numbers, but the model's head has 2 classes"):
        read([0.5, 1.0], head=["a", "b"])


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["cancer", "not cancer"], None, 0),
        (["cancer", "not cancer"], "not cancer", 1),
        (["no", "YES"], None, 1),
        (["0", "1"], None, 1),
        (["False", "True"], None, 1),
        (["positive", "negative"], None, 0),
        (["toxic", "nontoxic"], None, 0),
        (["spam", "ham"], "SPAM", 0),
        (["Spam", "spam"], "spam", 1),
        (["cancer", "not cancer"], SECOND_CLASS, 1),
    ],
)
def test_the_class_of_f1_is_named_or_names_itself(names: list[str], wanted: str | None, expected: int) -> None:
    assert positive_class(names, wanted) == expected


@pytest.mark.parametrize("names", [["ham", "spam"], ["pos", "yes"], ["non a", "non b"], ["LABEL_0", "LABEL_1"]])
def test_the_class_of_f1_is_asked_for_where_names_do_not_settle_it(names: list[str]) -> None:
    with pytest.raises(DatasetError, match=r"task\.positive_label: f1 of the two classes .*name it"):
        positive_class(names, None)
    with pytest.raises(DatasetError, match="'other' is not a class; the classes are"):
        positive_class(names, "other")


@pytest.mark.parametrize(
    ("head", "order"),
    [
        (["a", "b", "c"], [0, 1, 2]),
        (["c", "a", "b"], [1, 2, 0]),
        (["C ", "B", "A"], [2, 1, 0]),
        (["b", "unused", "a"], [2, 0, 1]),
    ],
)
def test_another_head_has_the_classes_in_an_order_of_its_own(head: list[str], order: list[int]) -> None:
    column = column_of(["a", "b"] if "unused" in head else ["a", "b", "c"])
    names = ("a", "b", "c")  # as a base model's head may have more classes than the data use
    labels = Labels(names, {name: index for index, name in enumerate(names)})
    assert order_of_classes(configuration(head), column, labels) == order


def test_another_head_of_counted_classes_is_mapped_by_number() -> None:
    column = column_of(declared(["no", "yes"], [0, 1, 1]))
    labels = Labels(("yes", "no"), {"yes": 0, "no": 1})  # as a base model's head orders them
    assert order_of_classes(configuration(["LABEL_0", "LABEL_1"]), column, labels) == [1, 0]


def test_another_head_may_give_numbers() -> None:
    column, head = column_of([0.5, 1.5]), configuration(["LABEL_0"])
    assert order_of_classes(head, column, Labels(())) == [0]
    with pytest.raises(DatasetError, match="head has 2 classes; pass --train to train a new head"):
        order_of_classes(configuration(["a", "b"]), column, Labels(()))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (["x", "y"], r"are not the classes of the model's head \(x, y\); rename them, or pass --train"),
        (["a", "b", "c"], r"its head has 3 classes \(a, b, c\), and the study has 2 \(a, b\); pass --train"),
        (["a"], r"gives one number.*or pass --train|train a new head"),
    ],
)
def test_another_head_of_other_classes_is_refused(head: list[str], message: str) -> None:
    with pytest.raises((DatasetError, UnsupportedModelError), match=message):
        order_of_classes(configuration(head), column_of(["a", "b"]), Labels(("a", "b"), {"a": 0, "b": 1}))


def test_labels_are_found_by_name() -> None:
    assert order_by_name(configuration(["Film", "blame", "praise"]), ("praise", "blame", "film")) == [2, 1, 0]
    with pytest.raises(UnsupportedModelError, match=r"has the labels a, b, and the study has a, c; pass --train"):
        order_by_name(configuration(["a", "b"]), ("a", "c"))
