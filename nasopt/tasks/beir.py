"""Passages, queries and judgements in the files of BEIR (Thakur et al. 2021, arXiv 2104.08663).

A folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and, for each split,
`qrels/<split>.tsv`, whose first line is `query-id`, `corpus-id` and `score` with tabs between them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasopt.errors import DatasetError, choices
from nasopt.tasks.files import not_utf8

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
COLUMNS = ("query-id", "corpus-id", "score")
KEY = "task.retrieval.path"


@dataclass(frozen=True)
class Judgements:
    """The judgements of one split, for the queries that have a relevant passage.

    Attributes:
        queries: the queries' rows in the collection, shape (queries,).
        relevance: for each query the relevant passages' rows with their scores, all above 0.
        own: the row of the passage that has the query's own id and is not relevant, which is not found, because it is
            taken for the query itself; -1 where there is none; shape (queries,).
        unanswered: the number of other queries, which have no relevant passage.
    """

    queries: NDArray[np.int64]
    relevance: Sequence[Mapping[int, float]]
    own: NDArray[np.int64]
    unanswered: int

    def __len__(self) -> int:
        return len(self.queries)

    def first(self, count: int | None) -> Judgements:
        """Those of the first queries; of all if `count` is None."""
        return Judgements(self.queries[:count], self.relevance[:count], self.own[:count], self.unanswered)

    @property
    def best(self) -> list[int]:
        """The row of each query's most relevant passage, the first one of several."""
        return [max(its, key=its.__getitem__) for its in self.relevance]


class Collection:
    """The passages and the queries of a folder, read into memory.

    Attributes:
        passages: the passages' texts, after their titles.
        queries: the queries' texts.

    Args:
        folder: the folder of the files.

    Raises:
        DatasetError: a file is missing or damaged, or an id occurs twice.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).expanduser()
        if not self._folder.is_dir():
            raise DatasetError(f"{KEY}: there is no folder {self._folder}")
        passages, queries = _read_texts(self._folder / CORPUS), _read_texts(self._folder / QUERIES)
        self.passages, self.queries = list(passages.values()), list(queries.values())
        self._passage_rows = {key: row for row, key in enumerate(passages)}
        self._query_rows = {key: row for row, key in enumerate(queries)}
        if blank := [key for key, text in queries.items() if not text]:
            raise DatasetError(
                f"{KEY}: {self._folder / QUERIES}: {len(blank)} queries have no text, the first is {blank[0]!r}; "
                "remove them"
            )

    def judgements(self, split: str) -> Judgements:
        """The judgements of a split, the queries in the order of its file.

        Raises:
            DatasetError: the file is missing or damaged, names an id that is not there, judges a passage twice, or has
                no relevant passage for any query.
        """
        path = self._folder / QRELS / f"{split}.tsv"
        if not path.is_file():
            there = choices(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
            raise DatasetError(f"task.dataset.splits: there is no file {path}; splits that have one: {there}")
        judged: dict[str, dict[str, float]] = {}
        for line, query, passage, score in _read_judgements(path):
            if judged.setdefault(query, {}).setdefault(passage, score) != score:
                raise _damaged(path, line, f"another score for query {query!r} and passage {passage!r} than before")
        self._check_ids(path, judged)
        relevant = {query: {key: score for key, score in its.items() if score > 0} for query, its in judged.items()}
        answered = {query: its for query, its in relevant.items() if its}
        if not answered:
            raise DatasetError(f"{KEY}: {path}: no query has a relevant passage, a score above 0")
        own = [-1 if query in its else self._passage_rows.get(query, -1) for query, its in answered.items()]
        return Judgements(
            queries=np.array([self._query_rows[query] for query in answered]),
            relevance=[{self._passage_rows[key]: score for key, score in its.items()} for its in answered.values()],
            own=np.array(own),
            unanswered=len(judged) - len(answered),
        )

    def _check_ids(self, path: Path, judged: Mapping[str, Mapping[str, float]]) -> None:
        named = dict.fromkeys(passage for its in judged.values() for passage in its)
        for what, names, known, file in (
            ("queries", judged, self._query_rows, QUERIES),
            ("passages", named, self._passage_rows, CORPUS),
        ):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise DatasetError(
                    f"{KEY}: {path} names {len(unknown)} {what} that are not in {file}, the first is {unknown[0]!r}; "
                    "are the files of one data set?"
                )


def _read_texts(path: Path) -> dict[str, str]:
    """The texts of a file by id, each after its title if it has one."""
    texts: dict[str, str] = {}
    for line, content in _lines(path):
        try:
            item = json.loads(content)
            parts = [item.get("title"), item["text"]]
            key = item["_id"]
        except ValueError as error:
            raise _damaged(path, line, f"no JSON ({error})") from None
        except (KeyError, TypeError, AttributeError):
            raise _damaged(path, line, "no object with `_id` and `text`") from None
        if not isinstance(key, str | int) or not all(part is None or isinstance(part, str) for part in parts):
            raise _damaged(path, line, "`_id`, `title` and `text` are texts")
        if str(key) in texts:
            raise _damaged(path, line, f"the id {str(key)!r} occurs a second time")
        texts[str(key)] = " ".join(part for part in parts if part).strip()
    if not texts:
        raise DatasetError(f"{KEY}: {path} is empty")
    return texts


def _read_judgements(path: Path) -> Iterator[tuple[int, str, str, float]]:
    """The rows of a file: the line's number, from 1, the query's id, the passage's id, and the score."""
    rows = ((line, next(csv.reader([content], delimiter="\t"))) for line, content in _lines(path))
    if tuple(next(rows, (1, ()))[1]) != COLUMNS:
        raise _damaged(path, 1, f"the first line has to be {choices(COLUMNS)}, with tabs between them")
    for line, row in rows:
        if len(row) != len(COLUMNS):
            raise _damaged(path, line, f"{len(row)} cells, not {len(COLUMNS)}")
        try:
            score = float(row[2])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise _damaged(path, line, f"the score is {row[2]!r}, no number")
        yield line, row[0], row[1], score


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers, from 1."""
    if not path.is_file():
        raise DatasetError(f"{KEY}: there is no file {path}")
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    except UnicodeDecodeError:
        raise DatasetError(f"{KEY}: {not_utf8([path])}") from None


def _damaged(path: Path, line: int, reason: str) -> DatasetError:
    return DatasetError(f"{KEY}: {path}, line {line}: {reason}")
