"""Reading BEIR's files: texts with titles, judgements, and what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_collection

from nasopt.errors import DatasetError
from nasopt.tasks.beir import Collection

PASSAGES = {"a": ("Films", "good plot"), "b": ("", "sad story"), "c": (None, ""), "q3": ("", "was it")}
QUERIES = {"q1": "good", "q2": "sad", "q3": "was it", "q4": "never judged"}
JUDGED = [("q3", "b", 1), ("q1", "a", 2), ("q1", "b", 1), ("q1", "c", 0), ("q2", "a", 0), ("q2", "b", -1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "beir", PASSAGES, QUERIES, {"dev": JUDGED})


def test_titles_stand_before_texts(folder: Path) -> None:
    found = Collection(folder)
    assert found.passages == ["Films good plot", "sad story", "", "was it"]
    assert found.queries == list(QUERIES.values())


def test_only_scores_above_0_are_relevant(folder: Path) -> None:
    judged = Collection(folder).judgements("dev")
    assert judged.queries.tolist() == [2, 0]  # in the order of the file
    assert judged.relevance == [{1: 1.0}, {0: 2.0, 1: 1.0}]
    assert (len(judged), judged.unanswered, judged.best) == (2, 1, [1, 0])
    assert len(judged.first(1)) == 1
    assert judged.first(1).relevance == [{1: 1.0}]
    assert judged.first(None).relevance == judged.relevance


def test_a_passage_with_the_query_s_own_id_is_not_found_unless_it_is_relevant(tmp_path: Path) -> None:
    passages = {"1": ("", "good"), "2": ("", "sad")}
    queries = {"1": "good", "2": "sad", "3": "was"}
    judged = [("1", "2", 1), ("2", "2", 1), ("3", "1", 1)]
    folder = write_collection(tmp_path / "beir", passages, queries, {"dev": judged})
    assert Collection(folder).judgements("dev").own.tolist() == [0, -1, -1]


def test_ids_may_be_numbers_and_files_may_have_blank_lines_and_a_mark(folder: Path) -> None:
    (folder / "queries.jsonl").write_text('\ufeff{"_id": 1, "text": "good"}\n\n{"_id": 2, "text": "sad"}\n', "utf-8")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\r\n1\ta\t1\r\n\r\n2\tb\t1.0\r\n")
    judged = Collection(folder).judgements("dev")
    assert (judged.queries.tolist(), judged.relevance) == ([0, 1], [{0: 1.0}, {1: 1.0}])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"task\.retrieval\.path: there is no folder .*nowhere"):
        Collection(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_file_that_is_not_there(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DatasetError, match=rf"there is no file .*{name}"):
        Collection(folder)


def test_a_split_that_is_not_there_names_those_that_are(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"task\.dataset\.splits: .*validation\.tsv; splits that have one: dev"):
        Collection(folder).judgements("validation")


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "again"}', r"line 5: the id 'a' occurs a second time"),
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', r"line 5: the id 'q1' occurs a second time"),
        ("corpus.jsonl", '{"_id": "z", "body": "?"}', "line 5: no object with `_id` and `text`"),
        ("corpus.jsonl", "[1, 2]", "line 5: no object with `_id` and `text`"),
        ("corpus.jsonl", '{"_id": "z", "text": ', "line 5: no JSON"),
        ("corpus.jsonl", '{"_id": "z", "text": ["good"]}', "line 5: `_id`, `title` and `text` are texts"),
        ("queries.jsonl", '{"_id": "z", "text": " "}', "1 queries have no text, the first is 'z'"),
    ],
)
def test_damaged_texts_are_told_with_their_line(folder: Path, name: str, line: str, reason: str) -> None:
    with (folder / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DatasetError, match=reason) as found:
        Collection(folder)
    assert str(folder / name) in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_empty_or_not_utf_8(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match=r"corpus\.jsonl is empty"):
        Collection(folder)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "a", "text": "\xe9"}')
    with pytest.raises(DatasetError, match=r"corpus\.jsonl: line 1 is not UTF-8 .*0xe9"):
        Collection(folder)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("q1\tz\t1", r"names 1 passages that are not in corpus\.jsonl, the first is 'z'"),
        ("q9\ta\t1", r"names 1 queries that are not in queries\.jsonl, the first is 'q9'"),
        ("q1\ta", "line 8: 2 cells, not 3"),
        ("q1 a 1", "line 8: 1 cells, not 3"),
        ("q2\tc\tmuch", "line 8: the score is 'much', no number"),
        ("q2\tc\tnan", "line 8: the score is 'nan', no number"),
        ("q1\ta\t1", "line 8: another score for query 'q1' and passage 'a' than before"),
    ],
)
def test_damaged_judgements_are_told(folder: Path, row: str, reason: str) -> None:
    with (folder / "qrels" / "dev.tsv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(DatasetError, match=reason) as found:
        Collection(folder).judgements("dev")
    assert str(folder / "qrels" / "dev.tsv") in str(found.value)


def test_the_same_judgement_twice_is_one(folder: Path) -> None:
    with (folder / "qrels" / "dev.tsv").open("a") as file:
        file.write("q1\ta\t2\n")
    assert len(Collection(folder).judgements("dev")) == 2


@pytest.mark.parametrize("rows", ["", "query-id\tcorpus-id\tscore\n", "query-id\tcorpus-id\tscore\nq1\ta\t0\n"])
def test_judgements_need_a_heading_and_a_relevant_passage(folder: Path, rows: str) -> None:
    (folder / "qrels" / "dev.tsv").write_text(rows)
    with pytest.raises(DatasetError, match="no query has a relevant passage" if rows else "the first line has to be"):
        Collection(folder).judgements("dev")


def test_judgements_of_trec_are_refused(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("q1 0 a 1\n")
    with pytest.raises(DatasetError, match="the first line has to be query-id, corpus-id, score"):
        Collection(folder).judgements("dev")
