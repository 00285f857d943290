"""Methods that were made for classifiers, on pairs of texts: sentence encoders and translators, from file to folder."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import mostly_slow
from command_line import read, run
from conftest import write_collection, write_pairs
from study_text import GENETIC, pairs_text

import nasopt

pytestmark = pytest.mark.integration

WORDS = dict(zip(("good", "great", "fine", "bad"), ("the", "film", "was", "plot"), strict=True))
SIMILARITY = """type = "sentence-similarity"
metric = "retrieval"
"""
CUT = "[task.similarity]\ndimensions = [4, 16]\n"
RETRIEVAL = """type = "sentence-similarity"
metric = "ndcg@10"
"""
TRANSLATION = """type = "translation"
metric = "bleu"
[task.new_model]
encoder_layers = 1
decoder_layers = 3
hidden_size = 32
heads = 2
ffn_size = 64
vocabulary = 100
[task.translation]
max_new_tokens = 8
latency_tokens = 3
"""
SEARCHES = {
    "genetic": f'{GENETIC}precisions = ["fp32", "bf16"]',
    "alphanas": "population_size = 3\ngenerations = 2",
}


@pytest.fixture
def home(study_folder: Path) -> Path:
    write_pairs(study_folder / "pairs", {"train": 120, "validation": 40, "test": 40}, WORDS)
    return study_folder


def write(home: Path, method: str, task: str, model: Path | str, options: str = "", latency: str = "") -> Path:
    head, _, table = task.partition("[")
    text = pairs_text(
        model, "pairs", options, task=head, tables="[" * bool(table) + table, method=method, latency=latency
    )
    file = home / "tiny.toml"
    file.write_text(text)
    return file


def run_card(folder: Path, block: int = 1) -> dict[str, object]:
    """Runs a block of the Python code of a model card, the first one being number 1."""
    code = (folder / "README.md").read_text().split("```python\n")[block].split("```")[0]
    names: dict[str, object] = {}
    exec(code.replace("this folder", str(folder)), names)
    return names


@pytest.mark.parametrize("method", mostly_slow(SEARCHES, ("alphanas",)))
def test_sentence_encoders(home: Path, tiny_bert: Path, method: str) -> None:
    assert run("study", "create", write(home, method, SIMILARITY + CUT, tiny_bert, SEARCHES[method])).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", 4).code == 0
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 5, trials
    assert run("study", "controls", "tiny", "--random-masks", 1).code == 0
    compared = [item["comparison"] for item in read("study", "pareto", "tiny")]
    assert all(item["low"] <= item["difference"] <= item["high"] for item in compared if item)
    for form in ("hf", "onnx"):
        found = run("study", "export", "tiny", "--best", "memory_mb<1000", "--to", home / form, "--format", form)
        assert found.code == 0, found.err
    vectors = run_card(home / "hf")["vectors"]
    assert isinstance(vectors, torch.Tensor)
    assert vectors.norm(dim=-1).tolist() == pytest.approx([1.0])
    theirs = run_card(home / "hf", 2)["vectors"]
    assert isinstance(theirs, np.ndarray)
    np.testing.assert_allclose(theirs, vectors.detach().numpy(), atol=1e-2)  # the trial may be in bf16
    assert "retrieval on the test split" in (home / "onnx" / "README.md").read_text()
    assert all(list(trial["quality_by_dimension"]) == ["16", "4"] for trial in trials)
    check_cut_vectors(home, trials[0])


def check_cut_vectors(home: Path, base: dict[str, Any]) -> None:
    """What a study says of vectors that are cut to 16 entries and to 4; `base` is the base model's trial."""
    found = base["quality_by_dimension"]
    assert all(0 < value < 1 for value in found.values())
    assert read("study", "show", "tiny")["base_by_dimension"] == found
    assert f"16 {found['16']:.4f}, 4 {found['4']:.4f}" in run("study", "show", "tiny").out
    assert "at 16" in run("study", "pareto", "tiny").out
    assert read("study", "report", "tiny")["study"]["base_by_dimension"] == found
    export = ("study", "export", "tiny", "--trial", 0, "--force", "--to", home / "cut", "--dimensions")
    refused = run(*export, 8)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--dimensions 8: trial 0 was not evaluated with that; it was with 16, 4" in refused.err
    no_file = run(*export, 4, "--format", "onnx")
    assert (no_file.code, "is for a folder that sentence-transformers loads" in no_file.err) == (2, True)
    assert run(*export, 4).code == 0
    card = (home / "cut" / "README.md").read_text()
    assert "This folder's vectors have the first 4 entries alone." in card
    assert f"| 4 | {found['4']:.4g} | {found['4']:.4g} |" in card
    assert "| entries | this model | base model | this model, test split | base model, test split |" in card
    mine, theirs = run_card(home / "cut")["vectors"], run_card(home / "cut", 2)["vectors"]
    assert isinstance(mine, torch.Tensor)
    assert mine.shape == (1, 4)
    np.testing.assert_allclose(theirs, mine.detach().numpy(), atol=1e-5)


def write_retrieval(home: Path, model: Path) -> Path:
    """A study by sensitivity on a folder of BEIR's files, in which a word's passages are those that begin with it."""
    passages = {f"p{row}": ("", f"{one} {two}") for row, (one, two) in enumerate(product(WORDS, WORDS.values()))}
    queries = {f"q{row}": word for row, word in enumerate(WORDS)}
    judged = [(f"q{row}", f"p{4 * row + place}", 1) for row in range(4) for place in range(3)]
    write_collection(home / "beir", passages, queries, {"validation": judged, "test": judged[:6]})
    task = f'{RETRIEVAL}[task.retrieval]\npath = "beir"\nquery_prefix = "it "'
    return write(home, "fisher", task, model, "trials = 3\nladder = 2\nexamples = 16")


def test_passages_are_the_study_s_data(home: Path, tiny_bert: Path) -> None:
    file = write_retrieval(home, tiny_bert)
    created = run("study", "create", file)
    assert created.code == 0, created.err
    assert "there are 16 passages" in created.out + created.err
    assert run("study", "create", file, "--skip-if-exists").code == 0
    with (home / "beir" / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "new", "text": "good"}\n')
    changed = run("study", "optimize", "tiny", "--n-trials", 1)
    assert (changed.code, "the study's retrieval folder has changed" in changed.err) == (2, True), changed.err
    (home / "beir" / "corpus.jsonl").unlink()
    refused = run("study", "create", file, "--name", "other")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "there is no file" in refused.err


@pytest.mark.slow
def test_encoders_that_find_passages(home: Path, tiny_bert: Path) -> None:
    assert run("study", "create", write_retrieval(home, tiny_bert)).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", 2).code == 0
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 3, trials
    found = run("study", "export", "tiny", "--trial", 1, "--to", home / "hf")
    assert found.code == 0, found.err
    card = (home / "hf" / "README.md").read_text()
    assert "`quality` is ndcg@10 on the queries of qrels/validation.tsv" in card
    assert "ndcg@10 on the test split" in card
    vectors = run_card(home / "hf")["vectors"]
    assert isinstance(vectors, torch.Tensor)
    np.testing.assert_allclose(run_card(home / "hf", 2)["vectors"], vectors.detach().numpy(), atol=1e-5)
    onnx = run("study", "export", "tiny", "--trial", 1, "--to", home / "onnx", "--format", "onnx")
    assert onnx.code == 0, onnx.err
    assert '"it a text", "another text"' in (home / "onnx" / "README.md").read_text()


def test_translators_lose_decoder_layers(home: Path) -> None:
    assert run("study", "create", write(home, "alphanas", TRANSLATION, "m2m_100", SEARCHES["alphanas"])).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", 3).code == 0
    trials = read("study", "trials", "tiny")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4, trials
    # Of the smallest ones at least one is on the front, whose weights are kept.
    smaller = next(trial for trial in read("study", "pareto", "tiny") if 0 in trial["params"].values())
    assert smaller["values"]["memory_mb"] < trials[0]["values"]["memory_mb"]
    assert run("study", "controls", "tiny", "--random-masks", 1).code == 0
    found = run("study", "export", "tiny", "--trial", smaller["number"], "--to", home / "out")
    assert found.code == 0, found.err
    model, tokenizer = nasopt.load(home / "out")
    assert model.config.decoder_layers == sum(smaller["params"].values())
    generated = model.generate(**tokenizer("good bad", return_tensors="pt"), max_new_tokens=4)
    assert isinstance(tokenizer.decode(generated[0], skip_special_tokens=True), str)
    run_card(home / "out")
    refused = run("study", "export", "tiny", "--trial", 0, "--to", home / "onnx", "--format", "onnx")
    assert (refused.code, "use --format hf" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("method", "task", "latency", "message"),
    [
        ("adabert", SIMILARITY, "", "adabert does not search models for sentence-similarity, only for text-class"),
        ("genetic", TRANSLATION, "", "genetic does not search models for translation"),
        ("alphanas", TRANSLATION, 'runtime = "compile"', "measured in the runtime eager"),
        ("alphanas", TRANSLATION, 'device = "a100"', "cannot be predicted: set `device` to cpu or cuda"),
    ],
)
def test_what_cannot_be_searched_or_timed_is_one_line(
    home: Path, tiny_bert: Path, method: str, task: str, latency: str, message: str
) -> None:
    model = tiny_bert if task == SIMILARITY else "m2m_100"
    found = run("study", "create", write(home, method, task, model, latency=latency))
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert message in found.err
