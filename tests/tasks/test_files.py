"""Local files that hold a split, and their cells as they are written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from nasopt.config.task import DatasetConfig
from nasopt.errors import DatasetError
from nasopt.tasks.datasets import load_splits

ROWS = {"text": ["good film", "bad plot", "the story", "a film"], "label": ["yes", "no", "yes", "no"]}
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(*ROWS.values(), strict=True))


def rows(path: Path, **settings: Any) -> Mapping[str, list[Any]]:
    """Texts and labels of the training split."""
    document = {"path": str(path), "text": ["text"], "splits": {"train": "train", "validation": "train"}, **settings}
    split = load_splits(DatasetConfig.model_validate(document), ["text", "label"])["train"]
    return {name: split[name][:] for name in ("text", "label")}


def test_cells_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n00012,01\ntrue,02\n1e5,01\nnull,02\n")
    assert rows(tmp_path) == {"text": ["00012", "true", "1e5", "null"], "label": ["01", "02", "01", "02"]}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "0"], [1, 0]),
        ([" 10", "-2"], [10, -2]),
        (["0.5", "1"], [0.5, 1.0]),
        (["1.0", "0.0"], [1.0, 0.0]),
        (["1", "no"], ["1", "no"]),
        (["1.10", "01.2"], ["1.10", "01.2"]),
        (["99999999999999999999", "1"], ["99999999999999999999", "1"]),
        (["1", "+1"], ["1", "+1"]),
    ],
)
def test_labels_are_numbers_where_all_of_them_are(tmp_path: Path, cells: list[str], expected: list[Any]) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"a,{cell}\n" for cell in cells))
    assert rows(tmp_path)["label"] == expected


def as_csv(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").write_text(CSV, encoding="utf-8-sig")
    return {}


def as_tsv(folder: Path) -> dict[str, Any]:
    (folder / "train.TSV").write_text(CSV.replace(",", "\t"))
    return {}


def with_semicolons(folder: Path) -> dict[str, Any]:
    (folder / "train.csv").write_text(CSV.replace(",", ";"))
    return {"delimiter": ";"}


def as_parts(folder: Path) -> dict[str, Any]:
    (folder / "data").mkdir()
    table = datasets.Dataset.from_dict(ROWS)
    for part in range(2):
        table.shard(2, part, contiguous=True).to_parquet(folder / "data" / f"train-{part:05}-of-00002.parquet")
    table.select([0]).to_parquet(folder / "data" / "test-00000-of-00001-0123456789abcdef.parquet")
    return {"splits": {"train": "train", "validation": "train", "test": "test"}}


def below_a_configuration(folder: Path) -> dict[str, Any]:
    (folder / "sst2").mkdir()
    datasets.Dataset.from_dict(ROWS).to_parquet(folder / "sst2" / "train-00000-of-00001.parquet")
    return {"name": "sst2"}


def as_saved_splits(folder: Path) -> dict[str, Any]:
    datasets.DatasetDict(train=datasets.Dataset.from_dict(ROWS)).save_to_disk(folder)
    return {}


def as_one_saved_split(folder: Path) -> dict[str, Any]:
    datasets.Dataset.from_dict(ROWS).save_to_disk(folder)
    return {}


def as_saved_folders(folder: Path) -> dict[str, Any]:
    datasets.Dataset.from_dict(ROWS).save_to_disk(folder / "train")
    return {}


LAYOUTS = [
    as_csv,
    as_tsv,
    with_semicolons,
    as_parts,
    below_a_configuration,
    as_saved_splits,
    as_one_saved_split,
    as_saved_folders,
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_whole_and_in_slices(layout: Any, tmp_path: Path) -> None:
    settings = layout(tmp_path)
    assert rows(tmp_path, **settings) == ROWS
    settings["splits"] = {"train": "train[:1]+train[75%:]", "validation": "train[1:3]"}
    assert rows(tmp_path, **settings)["text"] == ["good film", "a film"]


def in_cp1252(folder: Path) -> None:
    (folder / "train.csv").write_text(CSV + "café,yes\n", encoding="cp1252")


def json_in_cp1252(folder: Path) -> None:
    lines = [json.dumps({"text": text, "label": "a"}, ensure_ascii=False) for text in ("the plot", "café", "a film")]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="cp1252")


def as_csv_and_json(folder: Path) -> None:
    (folder / "train.csv").write_text(CSV)
    (folder / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')


def without_a_part(folder: Path) -> None:
    datasets.Dataset.from_dict(ROWS).to_parquet(folder / "train-00001-of-00003.parquet")


def with_bare_commas(folder: Path) -> None:
    (folder / "train.csv").write_text("text,label\na film, good,yes\na plot, bad,no\n")


def of_another_delimiter(folder: Path) -> None:
    (folder / "train.csv").write_text(CSV.replace(",", ";"))


def with_dates(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "2020-01-01", "label": "a"}\n' * 2)


def with_another_split(folder: Path) -> None:
    (folder / "dev.csv").write_text(CSV)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (in_cp1252, r"train\.csv: line 6 is not UTF-8 \(byte 0xe9\); save"),
        (json_in_cp1252, r"train\.jsonl: line 2 is not UTF-8"),
        (as_csv_and_json, r"split `train` more than once, in train\.csv and train\.jsonl"),
        (without_a_part, "1 of 3 parts"),
        (with_bare_commas, "names 2 columns, but row 0 has 3 cells"),
        (of_another_delimiter, r"no column text, label; it has: text;label; is task\.dataset\.delimiter"),
        (with_dates, "2 date-valued texts in the column `text`"),
        (with_another_split, "no split `train`; it has: dev"),
        (lambda folder: (folder / "train.csv").touch(), r"train\.csv is empty"),
        (lambda folder: (folder / "train.csv").write_text("text,label\n"), "split `train` of .* is empty"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    layout: Any, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout(tmp_path)
    logging.getLogger("nasopt").setLevel(logging.INFO)
    with pytest.raises(DatasetError, match=reason) as caught:
        rows(tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_delimiter_is_for_cells(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(DatasetError, match=r"task\.dataset\.delimiter: .*train\.jsonl is no \.csv, \.tsv file"):
        rows(tmp_path, delimiter=";")
    with pytest.raises(DatasetError, match=r"task\.dataset\.delimiter: owner/name is no file"):
        rows(Path("owner/name"), delimiter=";")
