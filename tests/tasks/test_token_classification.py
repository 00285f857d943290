"""Token classification: its loss and quality by hand, heads, what is refused, real entities, and the whole way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import mostly_slow
from command_line import read, run, succeed
from conftest import FILLERS, WORDS, write_tagged_words
from seqeval import metrics
from seqeval.metrics.sequence_labeling import get_entities
from study_text import study_text
from torch import Tensor, nn
from torch.nn import functional
from transformers import pipeline
from transformers.modeling_outputs import TokenClassifierOutput

import nasopt
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError
from nasopt.tasks.tags import TaggedText
from nasopt.tasks.token_classification import TokenClassification
from nasopt.tasks.windows import IGNORED

SIZES = {"train": 80, "validation": 40, "test": 30}
SHARED = Path(__file__).resolve().parents[3] / "shared"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagged_words(tmp_path_factory.mktemp("tagged"), SIZES)


def open_task(model: Path, data: Path, **changes: Any) -> TokenClassification:
    dataset = {"path": str(data), "text": ["tokens"], "label": "tags", **changes.pop("dataset", {})}
    settings = {"type": "token-classification", "metric": "f1", "max_length": 12, **changes}
    return TokenClassification(TaskConfig.model_validate({"model": str(model), "dataset": dataset, **settings}))


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for role, rows in (("train", train), ("validation", validation or train)):
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def guess(word: str) -> str:
    """A tag by the word alone, which splits each run of good or bad words into entities of one word."""
    return {1: "B-PRAISE", 0: "B-BLAME", None: "O"}[WORDS.get(word)]


class Guesser(nn.Module):
    """A model that gives every token of a known word the tag of :func:`guess`, and special tokens a wrong one."""

    def __init__(self, task: TokenClassification) -> None:
        super().__init__()
        names = task.load_model().config.label2id
        vocabulary = task.tokenizer.get_vocab()
        tags = torch.full((len(vocabulary),), names["B-BLAME"])
        for word in (*FILLERS, *WORDS):
            tags[vocabulary[word]] = names[guess(word)]
        self.logits = functional.one_hot(tags, len(names)).float()

    def forward(self, input_ids: Tensor, **others: Tensor) -> TokenClassifierOutput:
        return TokenClassifierOutput(logits=self.logits[input_ids])


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_quality_is_that_of_whole_texts(tiny_bert: Path, data: Path, tmp_path: Path, metric: str) -> None:
    task = open_task(tiny_bert, data, metric=metric)
    splits = task.encode(tmp_path)
    assert (
        task.count("validation") == len(splits["validation"]) > SIZES["validation"]
    )  # some texts are read in several windows
    rows = rows_of(data / "validation.jsonl")
    actual, found = [row["tags"] for row in rows], [[guess(word) for word in row["tokens"]] for row in rows]
    score = {"f1": metrics.f1_score, "accuracy": metrics.accuracy_score}[metric]
    evaluation = task.evaluate(Guesser(task), splits["validation"], CPU)
    assert 0.3 < evaluation.quality < 1
    assert evaluation.quality == pytest.approx(score(actual, found))
    if metric == "f1":
        assert evaluation.details["precision"] == pytest.approx(metrics.precision_score(actual, found))
        assert evaluation.details["recall"] == pytest.approx(metrics.recall_score(actual, found))
        report = metrics.classification_report(actual, found, output_dict=True)
        assert evaluation.details["f1_PRAISE"] == pytest.approx(report["PRAISE"]["f1-score"])


def test_words_without_a_token_count_too(tiny_bert: Path, tmp_path: Path) -> None:
    blank = {"tokens": ["good", " ", "film"], "tags": ["B-PRAISE", "B-PRAISE", "O"]}
    task = open_task(tiny_bert, write(tmp_path / "d", [blank, {"tokens": ["bad"], "tags": ["B-BLAME"]}]))
    evaluation = task.evaluate(Guesser(task), task.encode(tmp_path)["validation"], CPU)
    assert evaluation.details["precision"] == 1
    assert evaluation.details["recall"] == pytest.approx(2 / 3)


def test_the_loss_is_the_mean_over_words(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data)
    split, model = task.encode(tmp_path)["train"], task.load_model().eval()
    batch = split.batch(torch.arange(6))
    (output,) = task.run(model, batch)
    each = functional.cross_entropy(output.logits.transpose(1, 2), batch.labels, reduction="none")
    tagged = batch.labels != IGNORED
    assert task.loss_of([output], batch).item() == pytest.approx(each[tagged].mean().item(), rel=1e-5)
    assert int(tagged.sum()) == int(task.loss_terms(split)[:6].sum()) < int(batch.attention_mask.sum())


def test_create_tells_how_tags_are_read(tiny_bert: Path, data: Path) -> None:
    task = open_task(tiny_bert, data)
    words = sum(len(row["tokens"]) for row in rows_of(data / "train.jsonl"))
    assert f"words have one of 5 tags: O, B-BLAME, I-BLAME, B-PRAISE, I-PRAISE; {words} words in 80" in task.remarks[0]
    assert task.remarks[1] == "quality is f1 of entities"


@pytest.mark.parametrize(
    ("rows", "changes", "reason"),
    [
        ([{"tokens": ["a", "b"], "tags": ["NOUN", "VERB"]}], {}, r"f1 is that of entities.*NOUN, VERB; .*accuracy"),
        ([{"tokens": ["the"], "tags": ["O"]}], {}, r"no text of the validation split has an entity"),
        (None, {"tokens": {"overlap": 10}}, r"task.tokens.overlap: 10, but a window of max_length = 12 .*room for 10"),
        (None, {"dataset": {"label": "text"}}, r"has no column text; it has: tokens, tags"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_bert: Path, data: Path, tmp_path: Path, rows: Any, changes: dict[str, Any], reason: str
) -> None:
    entity = {"tokens": ["good"], "tags": ["B-PRAISE"]}
    folder = data if rows is None else write(tmp_path / "d", [entity] if "O" in rows[0]["tags"] else rows, rows)
    with pytest.raises(DatasetError, match=reason) as found:
        open_task(tiny_bert, folder, **changes)
    assert "\n" not in str(found.value)


def test_a_trained_head_is_used_and_one_for_texts_is_not(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data)
    assert not task.has_head
    model = task.load_model()
    names = ["I-praise", "I-BLAME", "B-PRAISE", "B-BLAME", "O"]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model.save_pretrained(tmp_path / "model")
    task.tokenizer.save_pretrained(tmp_path / "model")
    again = open_task(tmp_path / "model", data)
    assert again.has_head
    assert again.load_model().config.id2label == dict(enumerate(names))
    assert torch.equal(again.load_model().classifier.weight, model.classifier.weight)
    first = rows_of(data / "train.jsonl")[0]["tags"]
    mapped = [[name.upper() for name in names].index(tag) for tag in first]
    assert again.encode(tmp_path)["train"].tags[: len(first)].tolist() == mapped
    assert not open_task(tmp_path / "model", data, new_head=True).has_head
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(tmp_path / "model")
    assert not open_task(tmp_path / "model", data).has_head


def test_adabert_says_in_one_line_that_it_has_no_tokens(study_folder: Path, tiny_bert: Path, data: Path) -> None:
    file = study_folder / "tiny.toml"
    file.write_text(study_text(tiny_bert, data, "", method="adabert", task=TASK, columns=COLUMNS))
    found = run("study", "create", file)
    assert found.code != 0
    assert "adabert does not search models for token-classification, only for text-classification" in found.err
    assert len(found.err.strip().splitlines()) == 1


def entities_of(text: TaggedText, names: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
    """The characters and kinds of the entities that tags describe."""
    for kind, first, last in get_entities([names[tag] for tag in text.tags]):
        yield int(text.words[first, 0]), int(text.words[last, 1]), kind


@pytest.mark.parametrize("name", mostly_slow(["factru", "rudrec"], ["factru"]))
def test_real_entities(tmp_path: Path, name: str) -> None:
    """NE1 and NE2: what their spans become, read in windows by a real tokenizer, is what they say."""
    file, model = SHARED / "data" / "encodechka" / f"{name}.json", SHARED / "models" / "e5-small-en-ru"
    if not file.is_file() or not model.is_dir():
        pytest.skip(f"there is no {file}, or no {model}")
    content = json.loads(file.read_text(encoding="utf-8"))
    keys = ("label", "start", "end")
    rows = [
        {"text": text, "spans": [dict(zip(keys, span, strict=True)) for span in spans]}
        for text, spans in zip(content["texts"], content["labels"], strict=True)
        if text.strip()
    ][:100]
    task = open_task(model, write(tmp_path / "d", rows), max_length=128, dataset={"text": ["text"], "label": "spans"})
    names, texts = task._texts.names, task._texts.splits["train"]
    kept = total = 0
    for row, text in zip(rows, texts, strict=True):
        given = {(span["start"], span["end"], span["label"]) for span in row["spans"]}
        outer = {span for span in given if not any(is_inside(span, other) for other in given - {span})}
        kept += len(outer & set(entities_of(text, names)))
        total += len(outer)
    assert total > 50
    assert kept >= 0.99 * total  # few end inside of a word
    split = task.encode(tmp_path)["train"]
    assert split.lengths.max() <= 128
    tagged = split.words[split.words >= 0].tolist()
    assert len(tagged) == len(set(tagged))
    # Marks and digits that share a token with the word before have none; they are no entities.
    without = sorted(set(range(len(split.tags))) - set(tagged))
    assert len(without) < 0.02 * len(split.tags)
    assert {names[tag] for tag in split.tags[without].tolist()} <= {"O"}


def is_inside(span: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    return other[0] <= span[0] and span[1] <= other[1]


def score_of_words_alone(file: Path) -> float:
    """F1 of tags that do not look at the words around."""
    rows = rows_of(file)
    found = [[guess(word) for word in row["tokens"]] for row in rows]
    return float(metrics.f1_score([row["tags"] for row in rows], found))


TASK = 'type = "token-classification"\nmetric = "f1"\nmax_length = 16'
COLUMNS = 'text = ["tokens"]\nlabel = "tags"'
OPTIONS = {
    "fisher": 'cost = "flops"\n',  # a table of times is measured for text classifiers, in tests/methods/fisher/
    "genetic": 'population_size = 2\ngenerations = 2\nweights = "elastic"\n',
    "taylor": "",
    "alphanas": "",
    "bayesian": 'objectives = ["hinton", "map"]\n',
}


@pytest.mark.integration
@pytest.mark.parametrize("method", mostly_slow(OPTIONS, ["fisher"]))
def test_from_the_study_file_to_the_pipeline(
    study_folder: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory, method: str
) -> None:
    data = write_tagged_words(tmp_path_factory.mktemp("tagged"), {"train": 200, "validation": 60, "test": 40})
    file = study_folder / "tiny.toml"
    file.write_text(study_text(tiny_bert, data, OPTIONS[method], method=method, task=TASK, columns=COLUMNS))
    created = succeed("study", "create", file)
    assert "words have one of 5 tags" in created.out + created.err
    succeed("study", "optimize", "tiny", "--n-trials", 2)
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 3, trials
    assert trials[0]["values"]["quality"] >= score_of_words_alone(data / "validation.jsonl")
    front = read("study", "pareto", "tiny")
    assert all("comparison" in item for item in front)
    number = max(item["number"] for item in front)
    folder = study_folder / "out"
    succeed("study", "export", "tiny", "--trial", number, "--to", folder)
    text = "the film was good and very bad of it " * 4  # longer than a window
    shown = entities_by_card(folder, text)
    tag = pipeline("token-classification", str(folder), aggregation_strategy="first")
    tag.tokenizer.model_max_length = 16
    assert [item["word"] for item in tag(text, stride=4)] == [item["word"] for item in shown]
    model, tokenizer = nasopt.load(folder)
    inputs = tokenizer(["the film was good", "bad"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits
    assert logits.shape == (2, 6, 5)
    succeed("study", "export", "tiny", "--trial", number, "--to", study_folder / "onnx", "--format", "onnx")
    assert_onnx_is_the_same(study_folder / "onnx", logits)


def entities_by_card(folder: Path, text: str) -> list[dict[str, Any]]:
    """What the model card's code finds in a text."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("this folder", str(folder)).replace("a text", text), names)
    found: list[dict[str, Any]] = names["entities"]
    return found


def assert_onnx_is_the_same(folder: Path, logits: Tensor) -> None:
    """The file gives the same logits for the same texts, and the card's code tags their words."""
    card = (folder / "README.md").read_text()
    assert "| output | `logits` | float32 | texts x tokens x 5 |" in card
    assert "Classes, as `id2label` of config.json names them: 0 is `O`" in card
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    code = code.replace("this folder", str(folder)).replace(
        '["a text", "another text"]', '["the film was good", "bad"]'
    )
    exec(code, names)
    assert names["outputs"].shape == (2, 6, 5)
    real = np.array([[1] * 6, [1] * 3 + [0] * 3], dtype=bool)
    assert np.abs(names["outputs"] - logits.numpy())[real].max() < 1e-3
    assert [[word for word, _ in row] for row in names["tags"]] == [["the", "film", "was", "good"], ["bad"]]
