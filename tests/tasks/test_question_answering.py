"""Question answering: its loss and quality by hand, heads, what is refused, and the whole way.

The data are made by a rule (see `conftest.write_questions`): no real questions are here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import mostly_slow
from command_line import read, run, succeed
from conftest import WORDS, write_questions
from study_text import study_text
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

import nasopt
from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, HeadMismatchError, UnsupportedModelError
from nasopt.models.example_inputs import input_names
from nasopt.models.onnx import OnnxModel, convert
from nasopt.tasks.question_answering import MASKED, QuestionAnswering
from nasopt.tasks.squad import answer_scores
from nasopt.training.losses import prediction_kl

SIZES = {"train": 80, "validation": 40, "test": 30}
CPU = torch.device("cpu")
SHARED = Path(__file__).resolve().parents[3] / "shared"
GOOD = [word for word, kind in WORDS.items() if kind == 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions"), SIZES, unanswerable=True)


def open_task(model: Path, data: Path, **changes: Any) -> QuestionAnswering:
    columns = {"text": ["question", "context"], "label": "answers"}
    dataset = {"path": str(data), **columns, **changes.pop("dataset", {})}
    settings = {"type": "question-answering", "metric": "f1", "max_length": 24, **changes}
    return QuestionAnswering(TaskConfig.model_validate({"model": str(model), "dataset": dataset, **settings}))


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for role in ("train", "validation"):
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(context: str, *answers: tuple[str, int], question: str = "was it good") -> dict[str, Any]:
    places = {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}
    return {"question": question, "context": context, "answers": places}


class Guesser(nn.Module):
    """A model that begins and ends an answer with any good word, and with the question's; no answer scores 1.5."""

    def __init__(self, task: QuestionAnswering) -> None:
        super().__init__()
        vocabulary = task.tokenizer.get_vocab()
        self.scores = torch.zeros(len(vocabulary))
        self.scores[[vocabulary[word] for word in GOOD]] = 1.0
        self.scores[vocabulary["[CLS]"]] = 0.75

    def forward(self, input_ids: Tensor, **others: Tensor) -> QuestionAnsweringModelOutput:
        found = self.scores[input_ids]
        # Among equal ones the first good word begins an answer, and the last one ends it.
        order = torch.arange(input_ids.shape[1]) * 1e-3
        return QuestionAnsweringModelOutput(start_logits=found - order, end_logits=found + order)


def guess(context: str) -> str:
    """The answer of :class:`Guesser`: from the first good word to the last."""
    words = context.split()
    places = [place for place, word in enumerate(words) if word in GOOD]
    return " ".join(words[places[0] : places[-1] + 1]) if places else ""


@pytest.mark.parametrize("metric", ["f1", "exact_match"])
def test_quality_is_that_of_whole_contexts(tiny_bert: Path, data: Path, tmp_path: Path, metric: str) -> None:
    task = open_task(tiny_bert, data, metric=metric)
    split = task.encode(tmp_path)["validation"]
    assert task.count("validation") == len(split) > SIZES["validation"]  # some contexts are read in several windows
    rows = rows_of(data / "validation.jsonl")
    # The question's "good" is no answer, whatever its score; without a good word nothing is given.
    expected = answer_scores([guess(row["context"]) for row in rows], [row["answers"]["text"] for row in rows])
    evaluation = task.evaluate(Guesser(task), split, CPU)
    assert evaluation.quality == pytest.approx(expected[metric].mean())
    assert evaluation.details["exact_match"] == pytest.approx(expected["exact_match"].mean())
    assert evaluation.details["f1_no_answer"] == 1
    assert evaluation.details["best_quality"] >= evaluation.quality
    assert evaluation.replicates is not None
    assert evaluation.replicates[0] == evaluation.quality
    always = open_task(tiny_bert, data, metric=metric, answers={"threshold": 10})
    assert always.evaluate(Guesser(task), split, CPU).details["f1_no_answer"] == 0


def test_a_short_window_or_limit_ends_answers(tiny_bert: Path, tmp_path: Path) -> None:
    context = "the good film was good"
    folder = write(tmp_path / "d", [asked(context, ("good film was good", 4))])
    task = open_task(tiny_bert, folder)
    split = task.encode(tmp_path)["train"]
    assert task.predict(Guesser(task), split, CPU).texts == ["good film was good"]
    short = open_task(tiny_bert, folder, answers={"longest": 3})
    assert short.predict(Guesser(task), split, CPU).texts == ["good"]
    best = open_task(tiny_bert, folder, answers={"n_best": 1})
    assert best.predict(Guesser(task), split, CPU).texts == ["good film was good"]


def test_questions_that_all_have_answers_are_all_given_one(tiny_bert: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [asked("the film", ("film", 4)), asked("good", ("good", 0))])
    task = open_task(tiny_bert, folder)
    assert "each is given one" in task.remarks[0]
    evaluation = task.evaluate(Guesser(task), task.encode(tmp_path)["train"], CPU)
    assert evaluation.details.keys() == {"exact_match", "f1"}
    assert "" not in task.predict(Guesser(task), task.encode(tmp_path)["train"], CPU).texts


def test_the_loss_is_over_the_context_and_no_answer(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data)
    split, model = task.encode(tmp_path)["train"], task.load_model().eval()
    batch = split.batch(torch.arange(6))
    (output,) = task.run(model, batch)
    assert output.logits.shape == (*batch.inputs["input_ids"].shape, 2)
    total = 0.0
    for row, (first, last) in enumerate(batch.labels.tolist()):
        places = [0, *(batch.inputs["token_type_ids"][row] == 1).nonzero().flatten().tolist()]
        places = [place for place in places if batch.inputs["input_ids"][row, place] != task.tokenizer.sep_token_id]
        for end, place in enumerate((first, last)):
            logits = output.logits[row, places, end]
            total += functional.cross_entropy(logits, torch.tensor(places.index(place))).item()
    assert task.loss_of([output], batch).item() == pytest.approx(total / 12, rel=1e-5)


def test_students_learn_positions_of_the_context(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data)
    batch = task.encode(tmp_path)["train"].batch(torch.arange(5))
    student, teacher = torch.randn(2, 5, batch.attention_mask.shape[1], 2, generator=torch.Generator().manual_seed(0))
    found = prediction_kl(task.distributions(student, batch), task.distributions(teacher, batch), 2.0)
    expected = [
        prediction_kl(student[row, mask, end][None], teacher[row, mask, end][None], 2.0)
        for row, mask in enumerate(batch.choices)
        for end in (0, 1)
    ]
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    elsewhere = student + 5.0 * (~batch.choices)[:, :, None]  # question, separators and padding say nothing
    assert torch.equal(task.distributions(elsewhere, batch), task.distributions(student, batch))
    assert (task.distributions(student, batch) == MASKED).any()


@pytest.mark.parametrize(
    ("rows", "changes", "reason"),
    [
        (
            None,
            {"answers": {"overlap": 21}},
            r"task.answers.overlap: 21, but a window of max_length = 24 .* room for 21",
        ),
        (
            None,
            {"answers": {"overlap": 16}},
            r"task.max_length: \d+ questions of the train split leave no room .*5 tok",
        ),
        (None, {"dataset": {"label": "answer"}}, r"has no column answer; it has: question, context, answers"),
        (None, {"answers": {"start": "place"}}, r"has no column place"),
        ([asked("the film")], {}, r"no question of the training split has an answer"),
        ([asked("the film", ("film", 3))], {}, r"1 answers .* in row 0.*'film' at character 3, where .* ' fil'"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_bert: Path, data: Path, tmp_path: Path, rows: Any, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason) as found:
        open_task(tiny_bert, data if rows is None else write(tmp_path / "d", rows), **changes)
    assert "\n" not in str(found.value)


def test_a_trained_head_is_used_and_one_for_texts_is_not(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, data)
    assert not task.has_head
    model = task.load_model()
    model.save_pretrained(tmp_path / "model")
    task.tokenizer.save_pretrained(tmp_path / "model")
    again = open_task(tmp_path / "model", data)
    assert again.has_head
    assert torch.equal(again.load_model().qa_outputs.weight, model.qa_outputs.weight)
    assert not open_task(tmp_path / "model", data, new_head=True).has_head
    outside = task.for_model(OutsideModel(source=str(tmp_path / "model")))
    assert torch.equal(outside.load_model().qa_outputs.weight, model.qa_outputs.weight)
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    model.config.save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match="its head has 3 outputs for each token"):
        open_task(tmp_path / "model", data)
    with pytest.raises(HeadMismatchError, match="its head has 3 outputs"):
        task.for_model(OutsideModel(source=str(tmp_path / "model")))
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(tmp_path / "model")
    assert not open_task(tmp_path / "model", data).has_head


def test_an_onnx_file_answers_the_same(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    task = open_task(tiny_bert, data)
    split, model = task.encode(tmp_path)["validation"], task.load_model().eval()
    convert(model, input_names(model, task.tokenizer.model_input_names), tmp_path / "model.onnx")
    file, torch_s = (task.predict(its, split, CPU) for its in (OnnxModel(tmp_path / "model.onnx"), model))
    assert file.texts == torch_s.texts
    assert file.margins == pytest.approx(torch_s.margins, abs=1e-4)


def test_adabert_says_in_one_line_that_it_answers_none(study_folder: Path, tiny_bert: Path, data: Path) -> None:
    file = study_folder / "tiny.toml"
    file.write_text(study_text(tiny_bert, data, "", method="adabert", task=TASK, columns=COLUMNS))
    found = run("study", "create", file)
    assert found.code != 0
    assert "adabert does not search models for question-answering, only for text-classification" in found.err
    assert len(found.err.strip().splitlines()) == 1


def test_parts_of_real_texts_come_back_from_their_tokens(tmp_path: Path) -> None:
    """Named entities of NE1 as answers to a question that is always the same, read by a real tokenizer."""
    file, model = SHARED / "data" / "encodechka" / "factru.json", SHARED / "models" / "e5-small-en-ru"
    if not file.is_file() or not model.is_dir():
        pytest.skip(f"there is no {file}, or no {model}")
    content = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        asked(text, (text[start:end], start), question="Что здесь названо?")
        for text, spans in zip(content["texts"][:60], content["labels"], strict=False)
        for _, start, end in spans[:3]
    ]
    task = open_task(model, write(tmp_path / "d", rows), max_length=64)
    split = task.encode(tmp_path)["train"]
    assert split.lengths.max() == 64
    assert len(split) > 1.2 * len(rows) > 120  # some are read in windows
    held = [False] * len(rows)
    for window, (first, last) in enumerate(split.answers.tolist()):
        row, offset = int(split.questions[window]), int(split.windows.offsets[window])
        text = rows[row]["context"][int(split.begins[offset + first]) : int(split.stops[offset + last])]
        if first:
            held[row] = True
            assert text.strip() == rows[row]["answers"]["text"][0]
    assert all(held)


TASK = 'type = "question-answering"\nmetric = "f1"\nmax_length = 24'
COLUMNS = 'text = ["question", "context"]\nlabel = "answers"'
OPTIONS = {
    "fisher": 'cost = "flops"\n',  # a table of times is measured for text classifiers, in tests/methods/fisher/
    "genetic": 'population_size = 2\ngenerations = 2\nweights = "elastic"\n',
    "taylor": "",
    "alphanas": "",
    "bayesian": 'objectives = ["hinton", "map"]\n',
}


@pytest.mark.integration
@pytest.mark.parametrize("method", mostly_slow(OPTIONS, ["fisher"]))
def test_from_the_study_file_to_the_card(
    study_folder: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory, method: str
) -> None:
    sizes = {"train": 120, "validation": 40, "test": 30}
    data = write_questions(tmp_path_factory.mktemp("questions"), sizes, unanswerable=True)
    file = study_folder / "tiny.toml"
    text = study_text(tiny_bert, data, OPTIONS[method], method=method, base_epochs=3, task=TASK, columns=COLUMNS)
    file.write_text(text)
    created = succeed("study", "create", file)
    assert "120 training questions, 40 of them without an answer" in created.out + created.err
    succeed("study", "optimize", "tiny", "--n-trials", 2)
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 3, trials
    assert trials[0]["values"]["quality"] > 0.6  # silence is worth a third
    if method == "fisher":  # whose ladder has smaller members, whatever they are worth
        assert "first" in succeed("study", "controls", "tiny", "--random-masks", 0).out
    front = read("study", "pareto", "tiny")
    assert all("comparison" in item for item in front)
    number = max(item["number"] for item in front)
    for form in ("hf", "onnx"):
        succeed("study", "export", "tiny", "--trial", number, "--to", study_folder / form, "--format", form)
    rows = rows_of(data / "test.jsonl")
    task = open_task(tiny_bert, data, dataset={"splits": {"test": "test"}})
    model, tokenizer = nasopt.load(study_folder / "hf")
    found = task.predict(model, task.encode(study_folder)["test"], CPU)
    expected = task._given(found)
    assert len(set(expected)) > 1  # a small member may know few of them
    plain = AutoModelForQuestionAnswering.from_pretrained(study_folder / "hf", trust_remote_code=False).eval()
    assert torch.equal(plain(**tokenizer("a", "b", return_tensors="pt")).end_logits, outputs_of(model, tokenizer))
    pairs = [(row["question"], row["context"]) for row in rows]
    assert by_card(study_folder / "hf", pairs) == expected
    assert by_card_of_onnx(study_folder / "onnx", pairs) == expected


def outputs_of(model: nn.Module, tokenizer: Any) -> Tensor:
    found: Tensor = model(**tokenizer("a", "b", return_tensors="pt")).end_logits
    return found


def code_of(folder: Path) -> str:
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    return code.replace("this folder", str(folder))


def by_card(folder: Path, pairs: list[tuple[str, str]]) -> list[str]:
    """The answers that the model card's code finds."""
    names: dict[str, Any] = {}
    exec(code_of(folder), names)
    return [names["answer"](*pair) for pair in pairs]


def by_card_of_onnx(folder: Path, pairs: list[tuple[str, str]]) -> list[str]:
    """The answers that the code beside an ONNX file finds."""
    card = (folder / "README.md").read_text()
    assert "| output | `start_logits` | float32 | texts x tokens |" in card
    assert "| output | `end_logits` | float32 | texts x tokens |" in card
    assert "Classes" not in card
    assert "longer ones are read in windows" in card
    names: dict[str, Any] = {}
    exec(code_of(folder).replace('[["a text", "another text"]]', repr(pairs)), names)
    assert names["start_logits"].shape[0] > len(pairs)  # some contexts are read in windows
    assert np.isfinite(names["start_logits"]).all()
    found: list[str] = names["answers"]
    return found
