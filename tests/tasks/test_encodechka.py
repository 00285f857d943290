"""Encodechka on small made-up files, with an encoder that counts letters; scores against ones worked out here."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import KFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier

from nasopt.errors import DatasetError
from nasopt.tasks.encodechka import SENTENCE_TASKS, TASKS, Encodechka, mean_scores

WORDS = ["дом", "кот", "река", "синий", "бежит", "поле", "звук", "чай", "гора", "шум"]
KINDS = {"кот": "Animal", "гора": "Place"}
RESAMPLES = 20
Row = dict[str, object]


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of how often each letter occurs."""
    counts = np.zeros((len(texts), 64), dtype=np.float32)
    for row, text in enumerate(texts):
        for letter in text.lower():
            counts[row, ord(letter) % 64] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def letters_of_words(texts: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
    return [letters(words) for words in texts]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the benchmark, with 60 random examples each."""
    folder = tmp_path_factory.mktemp("encodechka")
    generator = random.Random(0)

    def text() -> str:
        return " ".join(generator.choices(WORDS, k=5))

    def rows(make: Callable[[], Row]) -> list[Row]:
        return [make() for _ in range(60)]

    write(
        folder / "stsb_dev.csv",
        rows(lambda: {"sentence1": text(), "sentence2": text(), "similarity_score": generator.choice([0.5, 2, 4.25])}),
    )
    write(
        folder / "para_gold.csv",
        rows(lambda: {"text_1": text(), "text_2": text(), "class": generator.choice([-1, 0, 1])}),
    )
    write(
        folder / "xnli_ru.csv",
        rows(lambda: {"sentence1": text(), "sentence2": text(), "gold_label": generator.choice(["yes", "no", "so"])}),
    )
    for part in ("train", "test"):
        write(
            folder / f"SentiRuEval2016_small_{part}.csv",
            rows(lambda: {"text": text(), "answer": generator.choice([-1, 0, 1])}),
        )
        write(folder / f"toxic_{part}.csv", rows(lambda: {"text": text(), "toxic": generator.choice([0, 1])}))
        write(folder / f"inappropriate_{part}.csv", rows(lambda: {"text": text(), "y": generator.choice([0, 1])}))
        write(
            folder / f"intents_{part}.csv",
            rows(lambda: {"text": text(), "answer": text(), "label": generator.choice(["a__x", "b__y"])}),
        )
    for name in ("factru", "rudrec"):
        texts = [text() for _ in range(60)]
        entities = [
            [[kind, found.start(), found.end()] for word, kind in KINDS.items() for found in re.finditer(word, text)]
            for text in texts
        ]
        (folder / f"{name}.json").write_text(json.dumps({"texts": texts, "labels": entities}), encoding="utf-8")
    return folder


def column(path: Path, name: str) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, NDArray[np.float64]]:
    return Encodechka(folder, TASKS).evaluate(letters, letters_of_words, resamples=RESAMPLES)


def test_every_task_has_a_score_and_resamples(scores: dict[str, NDArray[np.float64]]) -> None:
    assert tuple(scores) == TASKS
    for name, values in scores.items():
        assert values.shape == (1 + RESAMPLES,)
        assert np.isfinite(values).all(), name
        assert values[1:].std() > 0, name
        assert abs(values[1:].mean() - values[0]) < 0.15, name


@pytest.mark.parametrize(
    ("task", "file", "first", "second", "target"),
    [
        ("STS", "stsb_dev.csv", "sentence1", "sentence2", "similarity_score"),
        ("PI", "para_gold.csv", "text_1", "text_2", "class"),
    ],
)
def test_pairs_are_scored_by_rank_correlation(
    folder: Path, scores: dict[str, NDArray[np.float64]], task: str, file: str, first: str, second: str, target: str
) -> None:
    similarity = (letters(column(folder / file, first)) * letters(column(folder / file, second))).sum(axis=1)
    labels = [float(value) for value in column(folder / file, target)]

    assert scores[task][0] == pytest.approx(stats.spearmanr(similarity, labels).statistic, abs=1e-4)


def test_entailment_is_judged_by_its_three_folds(folder: Path, scores: dict[str, NDArray[np.float64]]) -> None:
    file = folder / "xnli_ru.csv"
    feature = (letters(column(file, "sentence1")) * letters(column(file, "sentence2"))).sum(axis=1)[:, None]
    labels = np.array(column(file, "gold_label"))
    right = 0
    for train, test in KFold(3, shuffle=True, random_state=1).split(feature):
        model = LogisticRegression(max_iter=10_000).fit(feature[train], labels[train])
        right += (model.predict(feature[test]) == labels[test]).sum()

    assert scores["NLI"][0] == pytest.approx(right / 60)


@pytest.mark.parametrize(
    ("task", "files", "learn_from", "target"),
    [
        ("SA", "SentiRuEval2016_small", "text", "answer"),
        ("IC", "intents", "text", "label"),
        ("ICX", "intents", "answer", "label"),
    ],
)
def test_the_better_of_two_classifiers_counts(
    folder: Path, scores: dict[str, NDArray[np.float64]], task: str, files: str, learn_from: str, target: str
) -> None:
    train, test = folder / f"{files}_train.csv", folder / f"{files}_test.csv"
    found = [
        model.fit(letters(column(train, learn_from)), column(train, target)).score(
            letters(column(test, "text")), column(test, target)
        )
        for model in (LogisticRegression(max_iter=10_000), KNeighborsClassifier(3, weights="distance"))
    ]

    assert scores[task][0] == pytest.approx(max(found))


@pytest.mark.parametrize(("task", "files", "target"), [("TI", "toxic", "toxic"), ("II", "inappropriate", "y")])
def test_detection_is_scored_by_area_under_the_curve(
    folder: Path, scores: dict[str, NDArray[np.float64]], task: str, files: str, target: str
) -> None:
    train, test = folder / f"{files}_train.csv", folder / f"{files}_test.csv"
    model = LogisticRegression(max_iter=10_000).fit(
        letters(column(train, "text")), [int(value) for value in column(train, target)]
    )
    labels = [int(value) for value in column(test, target)]
    expected = roc_auc_score(labels, model.predict_proba(letters(column(test, "text")))[:, 1])

    assert scores[task][0] == pytest.approx(expected)


def test_entities_are_scored_by_macro_f1_of_their_labels(folder: Path, scores: dict[str, NDArray[np.float64]]) -> None:
    texts = json.loads((folder / "factru.json").read_text(encoding="utf-8"))["texts"]
    named = {word: f"B-{kind}" for word, kind in KINDS.items()}
    labels = [["O", *(named.get(word, "O") for word in text.split()[1:])] for text in texts]  # never the first word
    train, test, train_labels, test_labels = train_test_split(texts, labels, test_size=0.5, random_state=1)
    model = SGDClassifier(loss="log_loss", random_state=1, tol=1e-4)
    model.fit(letters(" ".join(train).split()), np.concatenate(train_labels))
    predicted = model.predict(letters(" ".join(test).split()))
    expected = f1_score(np.concatenate(test_labels), predicted, average="macro", labels=["B-Animal", "B-Place"])

    assert expected > 0.5
    assert scores["NE1"][0] == pytest.approx(expected)


def test_each_distinct_text_is_embedded_once_for_all_tasks(folder: Path) -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return letters(texts)

    benchmark = Encodechka(folder, ["IC", "ICX", "STS"])
    benchmark.evaluate(embed, lambda texts: pytest.fail("no task of words is chosen"), resamples=2)

    files = [("stsb_dev", "sentence1"), ("stsb_dev", "sentence2"), ("intents_train", "text")]
    files += [("intents_train", "answer"), ("intents_test", "text")]
    expected = {text for file, name in files for text in column(folder / f"{file}.csv", name)}
    assert len(asked) == len(set(asked))
    assert set(asked) == expected


def test_a_task_scores_the_same_whatever_else_is_chosen(folder: Path, scores: dict[str, NDArray[np.float64]]) -> None:
    alone = Encodechka(folder, ["SA"]).evaluate(letters, letters_of_words, resamples=RESAMPLES)

    np.testing.assert_array_equal(alone["SA"], scores["SA"])


def test_the_mean_is_taken_within_each_resample() -> None:
    mean = mean_scores({"STS": np.array([0.2, 0.4]), "PI": np.array([0.6, 0.0])})

    np.testing.assert_allclose(mean, [0.4, 0.2])


def test_eight_sentence_tasks_are_the_default(folder: Path) -> None:
    assert Encodechka(folder).names == SENTENCE_TASKS == ("STS", "PI", "NLI", "SA", "TI", "II", "IC", "ICX")


def test_a_missing_file_says_which_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        Encodechka(tmp_path, ["STS"])

    message = str(caught.value)
    assert "stsb_dev.csv" in message
    assert str(tmp_path) in message
    assert "github.com/avidale/encodechka" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("sentence1,sentence2\nдом,кот\n", "no column similarity_score"),
        ("sentence1,sentence2,similarity_score\n", "no rows"),
        ("sentence1,sentence2,similarity_score\nдом,кот,1\nлес\n", "row 2"),
        ("sentence1,sentence2,similarity_score\nдом,кот,much\n", "much"),
    ],
)
def test_a_malformed_table_says_what_is_wrong(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "stsb_dev.csv").write_text(content, encoding="utf-8")

    with pytest.raises(DatasetError, match=reason):
        Encodechka(tmp_path, ["STS"])


@pytest.mark.parametrize("content", ["{", '{"texts": ["дом"]}', '{"texts": ["дом", "кот"], "labels": [[]]}', "[]"])
def test_malformed_entities_name_their_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "factru.json").write_text(content, encoding="utf-8")

    with pytest.raises(DatasetError, match=r"factru\.json"):
        Encodechka(tmp_path, ["NE1"])


@pytest.mark.parametrize("tasks", [["STS", "XX"], []])
def test_unknown_tasks_are_told_what_exists(folder: Path, tasks: list[str]) -> None:
    with pytest.raises(DatasetError, match="STS, PI, NLI"):
        Encodechka(folder, tasks)
