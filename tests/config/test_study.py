"""Study files: which ones are accepted, and that every mistake is named at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nasopt.config.study import SCHEMA_VERSION, StudyConfig, check_document, check_section
from nasopt.config.task import SECOND_CLASS
from nasopt.errors import StudyFileError
from nasopt.methods.adabert.method import AdaBERTOptions

MINIMAL = """
name = "s"
method = "genetic"
[task]
model = "m"
[task.dataset]
path = "d"
text = ["a"]
"""


def parse(tmp_path: Path, text: str) -> StudyConfig:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return StudyConfig.from_toml(path)


def test_defaults(tmp_path: Path) -> None:
    config = parse(tmp_path, MINIMAL)
    assert (config.training.epochs, config.base_training.epochs) == (1, 3)
    assert config.latency[0].device == "cpu"
    assert config.task.dataset.splits.validation == "validation"


def test_a_partial_base_training_table_keeps_its_own_defaults(tmp_path: Path) -> None:
    config = parse(tmp_path, MINIMAL + "[base_training]\nbatch_size = 8\n")
    assert (config.base_training.epochs, config.base_training.batch_size) == (3, 8)


def test_one_latency_table_or_several_named_ones(tmp_path: Path) -> None:
    assert len(parse(tmp_path, MINIMAL + "[latency]\nbatch_size = 1\n").latency) == 1
    two = '[[latency]]\nname = "online"\nbatch_size = 1\n[[latency]]\nname = "batch"\n'
    assert [latency.name for latency in parse(tmp_path, MINIMAL + two).latency] == ["online", "batch"]
    with pytest.raises(StudyFileError, match="different `name`"):
        parse(tmp_path, MINIMAL + two.replace('batch"', 'online"'))


def test_stored_configuration_reads_back_equal(write_study: Callable[..., Path]) -> None:
    config = StudyConfig.from_toml(write_study())
    assert StudyConfig.from_json(config.to_json()) == config


def test_f1_of_older_studies_stays_that_of_the_second_class(tmp_path: Path) -> None:
    config = parse(tmp_path, MINIMAL.replace("[task]", "[task]\nmetric = 'f1'"))
    assert config.task.positive_label is None
    stored = json.loads(config.to_json())
    del stored["task"]["positive_label"]
    found = StudyConfig.from_json(json.dumps(stored))
    assert found.task.positive_label == SECOND_CLASS
    assert StudyConfig.from_json(found.to_json()) == found == parse(tmp_path, found.to_toml())


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    text = MINIMAL.replace("[task]", "[task]\nmetric = 'f1'\npositive_label = 0")
    assert parse(tmp_path, text).task.positive_label == "0"


def test_a_mark_of_an_editor_in_front_is_no_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(MINIMAL, encoding="utf-8-sig")
    assert StudyConfig.from_toml(tmp_path / "s.toml") == parse(tmp_path, MINIMAL)
    (tmp_path / "s.toml").write_text(MINIMAL, encoding="utf-16")
    with pytest.raises(StudyFileError, match="not valid TOML"):
        StudyConfig.from_toml(tmp_path / "s.toml")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    stored = (
        parse(tmp_path, MINIMAL).to_json().replace(f'"schema": {SCHEMA_VERSION}', f'"schema": {SCHEMA_VERSION + 1}')
    )
    with pytest.raises(StudyFileError, match="newer nasopt"):
        StudyConfig.from_json(stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "s"', ""), "name: is missing"),
        (('name = "s"', 'name = "a/b"'), "name: "),
        (('name = "s"', 'name = ".."'), "name: "),
        (("[task]", "[task]\nmetrc = 'f1'"), "task.metrc: unknown key, did you mean `metric`?"),
        (("[task]", "[task]\nmetric = 'speed'"), "task.metric: 'speed' is not allowed; one of accuracy, f1"),
        (("[task]", "[task]\nmax_length = 'long'"), "task.max_length: "),
        (('["a"]', "[]"), "task.dataset.text: "),
        (('["a"]', '["a", "b", "c"]'), "task.dataset.text: "),
        (("[task]", "[training]\nepochs = 0\n[task]"), "training.epochs: .*not 0"),
        (("[task]", "[training]\nlearning_rate = -1\n[task]"), "training.learning_rate: .*not -1"),
        (("[task]", "[training]\nlearning_rate = nan\n[task]"), "training.learning_rate: "),
        (("[task]", "[latency]\nbatch_size = 0\n[task]"), "latency.0.batch_size: "),
        (("[task]", "[task]]"), "not valid TOML"),
        (("[task]", "[task]\npositive_label = 'a'"), "positive_label is for the metric f1, not for accuracy"),
        (("[task]", "[task]\nkind = 'regression'"), "the metric 'accuracy' is not one of regression: pearsonr"),
        (("[task]", "[task]\nkind = 'classification'\nmetric = 'pearsonr'"), "not one of classification: accuracy"),
        (("[task]", "[task]\nkind = 'ranks'"), "task.kind: 'ranks' is not allowed; one of classification, regression"),
        (("[task]", "[task]\ntype = 'translation'\nmetric = 'bleu'\nkind = 'regression'"), "kind is not for the type"),
        (('["a"]', '["a"]\ndelimiter = ";;"'), "task.dataset.delimiter: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(StudyFileError, match=message) as caught:
        parse(tmp_path, MINIMAL.replace(*change))
    assert "\n" not in str(caught.value)
    assert "s.toml" in str(caught.value)


def test_all_mistakes_are_shown_together(tmp_path: Path) -> None:
    text = MINIMAL.replace("[task]", "colour = 1\n[training]\nepochs = 0\n[task]").replace("method", "metod")
    with pytest.raises(StudyFileError) as caught:
        parse(tmp_path, text)
    for part in ("4 errors", "colour: unknown key", "training.epochs", "metod: unknown key", "method: is missing"):
        assert part in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(StudyFileError, match=r"no/such\.toml: no such study file"):
        StudyConfig.from_toml("no/such.toml")


def test_an_error_of_a_whole_table_names_the_table() -> None:
    nothing = {"task_weight": 0, "distillation_weight": 0, "efficiency_weight": 0}
    _, (error,) = check_section(AdaBERTOptions, nothing, prefix="method_options.")
    assert error.startswith("method_options: task_weight, distillation_weight and efficiency_weight are all 0")


def test_a_bad_table_in_a_list_is_one_error() -> None:
    document = {"name": "a", "method": "genetic", "task": {"model": "m", "dataset": {"path": "d", "text": ["t"]}}}
    _, errors = check_document({**document, "latency": [{"runtime": "tensorrt"}]})
    assert [error.partition(":")[0] for error in errors] == ["latency.0"]
