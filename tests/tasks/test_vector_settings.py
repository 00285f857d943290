"""How texts become vectors: the study file, the model's own files, and what is said where they differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WORDS, word_tokenizer
from outside_models import write_student

from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import UnsupportedModelError
from nasopt.models.sentence_modules import SentenceModules, sentence_files
from nasopt.tasks.similarity import SentenceSimilarity

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    rows = "".join(f"{word},it {word}\n" for word in WORDS)
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text(f"first,second\n{rows}")
    return folder


def task_config(model: Path, data: Path, max_length: int | None = None, **settings: Any) -> TaskConfig:
    dataset = {"path": str(data), "text": ["first", "second"]}
    config = {"type": "sentence-similarity", "model": str(model), "metric": "retrieval", "dataset": dataset}
    length = {} if max_length is None else {"max_length": max_length}
    return TaskConfig.model_validate({**config, **length, "similarity": settings})


def open_task(model: Path, data: Path, max_length: int | None = None, **settings: Any) -> SentenceSimilarity:
    return SentenceSimilarity(task_config(model, data, max_length, **settings))


def with_modules(encoder: Path, folder: Path, mode: str, *others: str) -> Path:
    """An encoder in a folder of sentence-transformers that has no list of modules."""
    shutil.copytree(encoder, folder)
    for name in ("1_Pooling", *others):
        (folder / name).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    return folder


def listed(encoder: Path, folder: Path, **settings: Any) -> Path:
    """An encoder in a folder of sentence-transformers with all its files."""
    shutil.copytree(encoder, folder)
    modules = SentenceModules(**{"pooling": "cls", "normalize": False, "max_length": 24, **settings})
    for path, text in sentence_files(modules, 64).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return folder


QUERY = {"prompts": {"query": "it ", "document": "was "}, "prompt": "it "}


def test_what_the_study_does_not_say_the_model_s_files_do(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    task = open_task(listed(tiny_bert, tmp_path / "model", **QUERY), pairs)
    settled = task.settled
    found = settled.similarity
    assert (found.pooling, found.prefix, found.normalize, settled.max_length) == ("cls", "it ", False, 24)
    assert task.remarks == (
        "as the model's own files say, pooling is cls, the prefix is 'it ', vectors keep their length, texts have at "
        "most 24 tokens",
    )
    encoder = task.text_encoder(task.load_model(), CPU)
    assert (encoder.pooling, encoder.prefix, encoder.normalize, encoder.limit) == ("cls", "it ", False, 24)
    # A study that is opened again has these settings of its own, and nothing to say.
    again = SentenceSimilarity(settled)
    assert (again.settled, again.remarks) == (settled, ())
    assert task.config == task_config(tmp_path / "model", pairs).answered_by(settled)


def test_what_the_study_says_wins_and_a_contradiction_is_said(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    model = listed(tiny_bert, tmp_path / "model", **QUERY)
    task = open_task(model, pairs, 32, pooling="mean", prefix="", normalize=True)
    found = task.settled.similarity
    assert (found.pooling, found.prefix, found.normalize, task.settled.max_length) == ("mean", "", True, 32)
    assert task.remarks == (
        'task.similarity.pooling: "mean", though the model\'s own files say "cls"',
        'task.similarity.prefix: "", though the model\'s own files say "it "',
        "task.similarity.normalize: true, though the model's own files say false",
        "task.max_length: 32, though the model's own files say 24",
        "the model has prompts and uses none unless told to; task.similarity.prefix can be one: query = 'it ', "
        "document = 'was '",
    )
    assert open_task(model, pairs, 16, pooling="cls", prefix="it ", normalize=False).remarks == ()


def test_a_plain_encoder_is_read_as_before(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, pairs)
    found = task.settled.similarity
    assert (found.pooling, found.prefix, found.normalize, task.settled.max_length) == ("mean", "", True, 128)
    assert task.remarks == ()
    model = with_modules(tiny_bert, tmp_path / "model", "cls_token")
    assert open_task(model, pairs).settled.similarity.pooling == "cls"
    assert "vectors = hidden[:, 0]" in open_task(model, pairs).usage


def test_the_longest_text_may_be_the_tokenizer_s(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    model = listed(tiny_bert, tmp_path / "model", max_length=None)
    assert open_task(model, pairs).settled.max_length == 64
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(model)
    assert open_task(model, pairs).settled.max_length == 40
    longer = listed(tiny_bert, tmp_path / "longer", max_length=512)
    assert open_task(longer, pairs).settled.max_length == 64  # the model has no more positions


def test_lower_case_is_as_the_files_say(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    model = listed(tiny_bert, tmp_path / "model")
    assert open_task(model, pairs).tokenizer("Good")["input_ids"] == [2, 1, 3]
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": true}')
    task = open_task(model, pairs)
    assert task.tokenizer("Good")["input_ids"] == task.tokenizer("good")["input_ids"] != [2, 1, 3]


def test_a_prompt_that_is_not_pooled_is_refused(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    model = listed(tiny_bert, tmp_path / "model", **QUERY, pools_prompt=False)
    with pytest.raises(UnsupportedModelError, match=r'leaves a prompt\'s tokens out .*; set .*prefix = ""'):
        open_task(model, pairs)
    assert '"include_prompt": false' in open_task(model, pairs, prefix="").folder_files["1_Pooling/config.json"]


def test_a_dense_module_is_refused_by_name(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    model = with_modules(tiny_bert, tmp_path / "model", "cls_token", "2_Dense")
    with pytest.raises(UnsupportedModelError, match=r"go through 2_Dense, .*; set task\.similarity\.pooling"):
        open_task(model, pairs)
    task = open_task(model, pairs, pooling="cls")
    assert task.pooling == "cls"
    assert "without the model's 2_Dense" in task.remarks[0]


def test_a_pooling_that_is_not_known_is_named(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    model = with_modules(tiny_bert, tmp_path / "model", "max_tokens")
    with pytest.raises(UnsupportedModelError, match=r"its pooling is max_tokens; .* one of mean, cls"):
        open_task(model, pairs)
    assert open_task(model, pairs, pooling="mean").pooling == "mean"


def test_a_model_from_outside_is_read_as_its_own_files_say(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    study = open_task(tiny_bert, pairs, 16, pooling="mean", prefix="was ")
    student = write_student(tmp_path / "student")
    own = study.for_model(OutsideModel(str(listed(student, tmp_path / "own", **QUERY))))
    found = own.config.similarity
    assert (found.pooling, found.prefix, found.normalize, own.config.max_length) == ("cls", "it ", False, 16)
    task = study.for_model(OutsideModel(str(student)))
    assert (task.pooling, task.config.similarity.prefix, study.config.model) == ("mean", "was ", str(tiny_bert))
    split = task.encode(tmp_path)["validation"]
    found_quality = task.evaluate(task.load_model(), split, CPU).quality
    opened = open_task(student, pairs, 16, prefix="was ")  # as a study of its own would see it
    assert found_quality == opened.evaluate(opened.load_model(), opened.encode(tmp_path)["validation"], CPU).quality
    theirs, its = (item.first.columns["input_ids"] for item in (study.encode(tmp_path)["validation"], split))
    assert not torch.equal(theirs, its)


def test_the_card_says_how_sentence_transformers_loads_the_folder(tiny_bert: Path, pairs: Path) -> None:
    task = open_task(tiny_bert, pairs)
    assert 'SentenceTransformer("this folder").encode' in task.other_use("fp32", needs_code=False)
    assert 'SentenceTransformer("this folder", trust_remote_code=True)' in task.other_use("fp32", needs_code=True)
    assert "rounds off" in task.other_use("bf16", needs_code=False)
    assert "rounds off" not in task.other_use("fp32", needs_code=False)
