"""encodechka, a benchmark of Russian sentence encoders: its ten tasks from a local folder of its data.

Protocol: METHODS.md section 4. Data: github.com/avidale/encodechka (MIT), folder `encodechka_eval/data`. Tasks of one
kind share a small class that reads and scores them; :class:`Encodechka` embeds the texts of all of them at once, each
distinct text a single time, whatever the number of tasks that use it.
"""

from __future__ import annotations

import csv
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasopt.errors import DatasetError, choices
from nasopt.numerics.resampling import FloatArray, resample_weights
from nasopt.tasks import encodechka_scores as scores
from nasopt.tasks.encodechka_scores import Embeddings
from nasopt.tasks.words import Entity, bio_labels, split_words

RESAMPLES = 300
SEED = 0
SPLIT_SEED = 1
SOURCE = "github.com/avidale/encodechka, folder encodechka_eval/data (MIT)"

Embed = Callable[[Sequence[str]], Embeddings]
"""A function from texts to their unit vectors, shape (texts, hidden)."""
EmbedWords = Callable[[Sequence[Sequence[str]]], Sequence[Embeddings]]
"""A function from texts, as lists of words, to the words' vectors, shape (words, hidden) for each text: the mean over a
word's tokens, zeros for a word that the model does not reach."""
Lookup = Callable[[Sequence[str]], Embeddings]


class _SentenceTask(ABC):
    """One of the eight tasks about sentences.

    Attributes:
        texts: the texts that it embeds.
        examples: how many examples it is scored on.
        evaluated: the name of the file that these come from; tasks on the same file are resampled alike.
    """

    texts: Sequence[str]
    examples: int
    evaluated: str

    @abstractmethod
    def score(self, weights: FloatArray, embeddings: Lookup) -> FloatArray:
        """The score of each row of weights of shape (rows, examples); shape (rows,). Vectors are (texts, hidden)."""


class _Pairs(_SentenceTask):
    """A task on pairs of texts with a target, all in one file; the target is a class unless `numeric`."""

    def __init__(self, folder: Path, file: str, first: str, second: str, target: str, *, numeric: bool) -> None:
        columns = _read_csv(folder / file, (first, second, target))
        self.first, self.second = columns[first], columns[second]
        self.target = _target(folder / file, target, columns[target], numeric)
        self.method = scores.pair_correlation if numeric else scores.pair_accuracy
        self.texts, self.examples, self.evaluated = [*self.first, *self.second], len(self.first), file

    def score(self, weights: FloatArray, embeddings: Lookup) -> FloatArray:
        return self.method(weights, embeddings(self.first), embeddings(self.second), self.target)


class _Classes(_SentenceTask):
    """A task on texts with classes, in a file to learn from and one to score; classes are 0 and 1 if `numeric`."""

    def __init__(self, folder: Path, files: str, target: str, *, numeric: bool, learn_from: str = "text") -> None:
        train_file, test_file = (folder / f"{files}_{part}.csv" for part in ("train", "test"))
        train, test = _read_csv(train_file, (learn_from, target)), _read_csv(test_file, ("text", target))
        self.train, self.test = train[learn_from], test["text"]
        self.train_labels = _target(train_file, target, train[target], numeric)
        self.test_labels = _target(test_file, target, test[target], numeric)
        self.method = scores.class_separation if numeric else scores.best_accuracy
        self.texts, self.examples, self.evaluated = [*self.train, *self.test], len(self.test), test_file.name

    def score(self, weights: FloatArray, embeddings: Lookup) -> FloatArray:
        train, test = embeddings(self.train), embeddings(self.test)
        return self.method(weights, train, self.train_labels, test, self.test_labels)


class _Entities:
    """A task on texts with entities, one half to learn from and the other to score."""

    def __init__(self, folder: Path, file: str) -> None:
        from sklearn.model_selection import train_test_split

        texts, entities = _read_entities(folder / file)
        cut = [split_words(text) for text in texts]
        labels = [bio_labels(words, found) for words, found in zip(cut, entities, strict=True)]
        words = [[word.text for word in text] for text in cut]
        self.train, self.test, self.train_labels, self.test_labels = train_test_split(
            words, labels, test_size=0.5, random_state=SPLIT_SEED
        )
        self.examples, self.evaluated = len(self.test), file

    def score(self, weights: FloatArray, embed_words: EmbedWords) -> FloatArray:
        """The score of each row of weights of shape (rows, examples); shape (rows,)."""
        vectors = embed_words([*self.train, *self.test])
        split = len(self.train)
        return scores.entity_f1(
            weights,
            np.concatenate(vectors[:split]),
            np.array([label for labels in self.train_labels for label in labels]),
            np.concatenate(vectors[split:]),
            np.array([label for labels in self.test_labels for label in labels]),
            np.repeat(np.arange(self.examples), [len(labels) for labels in self.test_labels]),
        )


_OPENERS: Mapping[str, Callable[[Path], _SentenceTask | _Entities]] = {
    "STS": lambda folder: _Pairs(folder, "stsb_dev.csv", "sentence1", "sentence2", "similarity_score", numeric=True),
    "PI": lambda folder: _Pairs(folder, "para_gold.csv", "text_1", "text_2", "class", numeric=True),
    "NLI": lambda folder: _Pairs(folder, "xnli_ru.csv", "sentence1", "sentence2", "gold_label", numeric=False),
    "SA": lambda folder: _Classes(folder, "SentiRuEval2016_small", "answer", numeric=False),
    "TI": lambda folder: _Classes(folder, "toxic", "toxic", numeric=True),
    "II": lambda folder: _Classes(folder, "inappropriate", "y", numeric=True),
    "IC": lambda folder: _Classes(folder, "intents", "label", numeric=False),
    "ICX": lambda folder: _Classes(folder, "intents", "label", numeric=False, learn_from="answer"),
    "NE1": lambda folder: _Entities(folder, "factru.json"),
    "NE2": lambda folder: _Entities(folder, "rudrec.json"),
}
TASKS = tuple(_OPENERS)
SENTENCE_TASKS = tuple(name for name in TASKS if not name.startswith("NE"))


class Encodechka:
    """Chosen tasks of the benchmark, read into memory.

    Args:
        folder: the folder of the benchmark's files.
        tasks: names in :data:`TASKS`; by default the eight tasks about sentences.

    Raises:
        DatasetError: a task is unknown, or a file is missing, is malformed or lacks a column.
    """

    def __init__(self, folder: str | Path, tasks: Sequence[str] = SENTENCE_TASKS) -> None:
        unknown = [name for name in tasks if name not in _OPENERS]
        if unknown or not tasks:
            found = choices(unknown) or "none"
            raise DatasetError(f"task.similarity.encodechka_tasks: {found}; choose of {choices(TASKS)}")
        self._tasks = {name: _OPENERS[name](Path(folder).expanduser()) for name in dict.fromkeys(tasks)}

    @property
    def names(self) -> tuple[str, ...]:
        """The chosen tasks, in their order."""
        return tuple(self._tasks)

    @property
    def texts(self) -> list[str]:
        """The distinct sentences of all chosen tasks."""
        sentences = (task.texts for task in self._tasks.values() if isinstance(task, _SentenceTask))
        return list(dict.fromkeys(text for texts in sentences for text in texts))

    def evaluate(self, embed: Embed, embed_words: EmbedWords, *, resamples: int = RESAMPLES) -> dict[str, FloatArray]:
        """The scores of an encoder.

        Args:
            embed: gives vectors of shape (texts, hidden); called once, with :attr:`texts`.
            embed_words: gives vectors of shape (words, hidden) for each text; called once for each word task.
            resamples: the number of resamples.

        Returns:
            For each task its score, then its scores on resamples of the examples, shape (1 + resamples,). Resamples are
            the same for every encoder, so that the difference of two encoders has an interval.
        """
        texts = self.texts
        embeddings = embed(texts) if texts else np.empty((0, 0), dtype=np.float32)
        row_of = {text: row for row, text in enumerate(texts)}

        def lookup(wanted: Sequence[str]) -> Embeddings:
            found: Embeddings = embeddings[[row_of[text] for text in wanted]]
            return found

        result = {}
        for name, task in self._tasks.items():
            weights = resample_weights(task.examples, resamples, (SEED, zlib.crc32(task.evaluated.encode())))
            if isinstance(task, _SentenceTask):
                result[name] = task.score(weights, lookup)
            else:
                result[name] = task.score(weights, embed_words)
        return result


def mean_scores(of_tasks: Mapping[str, FloatArray]) -> FloatArray:
    """The mean over the tasks of the scores of :meth:`Encodechka.evaluate`, each of shape (1 + resamples,)."""
    mean: FloatArray = np.mean(list(of_tasks.values()), axis=0)
    return mean


def _read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Some columns of a csv file."""
    _check_exists(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _malformed(path, str(error)) from None
    if not rows:
        raise _malformed(path, "it holds no rows")
    missing = [column for column in columns if column not in rows[0]]
    if missing:
        raise _malformed(path, f"it has no column {choices(missing)}")
    short = next((number for number, row in enumerate(rows, 1) if any(row[column] is None for column in columns)), None)
    if short is not None:
        raise _malformed(path, f"row {short} has too few cells")
    return {column: [row[column] for row in rows] for column in columns}


def _read_entities(path: Path) -> tuple[list[str], list[list[Entity]]]:
    """The texts of a file, and the entities of each."""
    _check_exists(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts = [str(text) for text in content["texts"]]
        entities = [[(str(kind), int(start), int(stop)) for kind, start, stop in found] for found in content["labels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(path, f"expected lists `texts` and `labels` ({error})") from None
    if len(texts) != len(entities) or len(texts) < 2:
        raise _malformed(path, f"it has {len(texts)} texts and labels of {len(entities)}")
    return texts, entities


def _target(path: Path, column: str, values: Sequence[str], numeric: bool) -> Any:
    """The column as float64 if `numeric`, else as strings; shape (rows,)."""
    if not numeric:
        return np.array(values)
    try:
        return np.array(values, dtype=np.float64)
    except ValueError as error:
        raise _malformed(path, f"column {column}: {error}") from None


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise DatasetError(
            f"task.similarity.encodechka: the file {path.name} is missing in the folder {path.parent}; "
            f"get it from {SOURCE}"
        )


def _malformed(path: Path, reason: str) -> DatasetError:
    return DatasetError(f"task.similarity.encodechka: {path}: {reason}; get the file anew from {SOURCE}")
