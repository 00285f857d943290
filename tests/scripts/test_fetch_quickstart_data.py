import csv
import hashlib
import importlib.util
import io
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_quickstart_data.py"
specification = importlib.util.spec_from_file_location("fetch_quickstart_data", SCRIPT)
assert specification is not None
assert specification.loader is not None
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)

SIZES = {"train": 20, "validation": 10, "test": 10}


def archive(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def examples(positives: int, negatives: int) -> list[tuple[str, str]]:
    return [(f"good {i}", "positive") for i in range(positives)] + [(f"bad {i}", "negative") for i in range(negatives)]


def test_clearly_rated_texts_are_read_and_others_left_out(tmp_path: Path) -> None:
    tweets = '1\t2.5\tI love it, "really"\t!\r\n2\t-0.51\tNot good\r\n3\t0.5\tneutral\r\n4\t-0.2\tso so\r\n\r\n'
    data = archive(
        {
            "hutto/tweets_GroundTruth.txt": tweets,
            "hutto/tweets_anonDataRatings.txt": "1\t3.0\tnot this file\r\n",
            "../../escape_GroundTruth.txt": "1_1\t-3\tna\u00efve\u0085 plot\r\n",
        }
    )
    assert script.read_examples(data) == [
        ('I love it, "really"\t!', "positive"),
        ("Not good", "negative"),
        ("na\u00efve\u0085 plot", "negative"),
    ]
    assert not list(tmp_path.parent.rglob("escape*")), "nothing is extracted"


def test_a_malformed_line_is_named() -> None:
    with pytest.raises(script.FetchError, match=r"x_GroundTruth.txt, line 2 is not"):
        script.read_examples(archive({"x_GroundTruth.txt": "1\t2.0\tfine\n2\tgreat\ttext\n"}))


def test_duplicates_are_one_text_and_contradictions_none() -> None:
    rated = [("Good  one", "positive"), ("good one", "positive"), ("hm", "positive"), ("HM", "negative")]
    assert script.without_duplicates(rated) == [("Good  one", "positive")]


def test_splits_are_disjoint_stratified_and_do_not_depend_on_order() -> None:
    rated = examples(60, 40)
    splits = script.split_examples(rated, SIZES)
    assert {split: len(chosen) for split, chosen in splits.items()} == SIZES
    texts = [text for chosen in splits.values() for text, _ in chosen]
    assert len(set(texts)) == 40
    for split, size in SIZES.items():
        counts = Counter(label for _, label in splits[split])
        assert counts == {"positive": 0.6 * size, "negative": 0.4 * size}
        labels = [label for _, label in splits[split]]
        assert labels not in (sorted(labels), sorted(labels, reverse=True)), "the classes are mixed"
    assert script.split_examples(rated[::-1], SIZES) == splits


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(script.FetchError, match="10 texts are too few for splits of 20, 10, 10"):
        script.split_examples(examples(5, 5), SIZES)


def test_written_splits_read_back_and_are_valid(tmp_path: Path) -> None:
    rated = [*examples(60, 40), ('quotes "and", commas\tand tabs', "positive")]
    splits = script.split_examples(rated, SIZES)
    folder = tmp_path / "new" / "data"
    script.write_splits(splits, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["test.csv", "train.csv", "validation.csv"]
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["label"]) for row in rows] == splits["train"]
    assert script.is_valid(folder, SIZES)


@pytest.mark.parametrize("damage", ["missing", "truncated", "label", "repeated", "binary"])
def test_damaged_splits_are_not_valid(tmp_path: Path, damage: str) -> None:
    script.write_splits(script.split_examples(examples(60, 40), SIZES), tmp_path)
    path = tmp_path / "test.csv"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_text("".join(lines[:-1]))
    elif damage == "label":
        path.write_text("".join([*lines[:-1], "some text,neutral\n"]))
    elif damage == "repeated":
        path.write_text("".join([*lines[:-1], lines[1]]))
    else:
        path.write_bytes(b"\xff\xfe\x00")
    assert not script.is_valid(tmp_path, SIZES)


def test_the_archive_is_found_in_the_source_distribution_and_checked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vaderSentiment-0.5.zip", "w") as distribution:
        distribution.writestr(f"vaderSentiment-0.5/additional_resources/{script.ARCHIVE}", b"content")
    assert script.archive_of(tmp_path) == b"content"
    script.check_archive(b"content", hashlib.sha256(b"content").hexdigest())
    with pytest.raises(script.FetchError, match=f"has SHA-256 .*{script.ARCHIVE_SHA256} is expected"):
        script.check_archive(b"content")


def test_a_distribution_without_the_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(script.FetchError, match="does not hold additional_resources"):
        script.archive_of(tmp_path)


def test_without_an_index_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert script.main([str(tmp_path / "data")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "could not download vaderSentiment==0.5" in output.err
    assert "check the network" in output.err
    assert not (tmp_path / "data").exists()


def test_valid_data_are_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script.write_splits(script.split_examples(examples(2400, 2000)), tmp_path)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert script.main([str(tmp_path)]) == 0
    assert "already there" in capsys.readouterr().out
