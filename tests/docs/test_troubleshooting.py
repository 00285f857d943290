"""The error lines that docs/troubleshooting.md explains are those that the product prints."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from command_line import Result, run

from nasopt.host.identity import worker_identity
from nasopt.records.claim import CLAIM
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
EXPLAINED = re.findall(r"^    (nasopt: .+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
WriteStudy = Callable[..., Path]


def mistakes_in_files(write: WriteStudy, model: Path, data: Path, folder: Path) -> Iterator[Result]:
    """Study files that are refused, and the data and models they name."""
    changes = [
        {"[task]": "[task"},
        {"[training]": "[training]\nepoch = 1"},
        {'"genetic"': '"genetics"'},
        {'"accuracy"': '"spearmanr"'},
        {'device = "cpu"': 'device = "a1000"'},
        {'device = "cpu"': 'device = "a100"', "generations = 2": 'generations = 2\nprecisions = ["fp32", "int4"]'},
        {"[latency]": '[[latency]]\nname = "far"\ndevice = "a100"\nsequence_length = 16\n[[latency]]\nname = "here"'},
        {'device = "cpu"': 'device = "cpu"\nruntime = "tensorrt"'},
        {"sequence_length = 16": "sequence_length = 100"},
        {"generations = 2": 'generations = 2\npruning = "no.such:f"'},
        {'text = ["text"]': 'text = ["sentence"]'},
        {'test = "test"': 'test = "tset"'},
        {'name = "tiny"': 'name = ".."'},
        {str(data): "/no/such/data"},
        {str(model): "/no/such/model"},
    ]
    for change in changes:
        yield run("study", "create", write(**change))
    yield run("study", "create", "none.toml")
    other = folder / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    yield run("study", "create", write(**{str(model): str(other)}))
    small = folder / "small"
    small.mkdir()
    for file in data.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    for text in ("text,label\n", "text,label\na,x\nb,x\n", "text,label\na,x\nb,y\n"):
        (small / "train.csv").write_text(text)
        yield run("study", "create", write(**{str(data): str(small)}))
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text()) | {"label2id": {"spam": 0, "ham": 1}}
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "spam", "1": "ham"}}
    (other / "config.json").write_text(json.dumps(config))
    yield run("study", "create", write(**{str(model): str(other)}))


def mistakes_in_data(write: WriteStudy, data: Path, folder: Path) -> Iterator[Result]:
    """Data that are there, but not as they should be."""
    place = folder / "unreadable"
    place.mkdir()
    changed = {str(data): str(place)}
    regression = changed | {'"accuracy"': '"spearmanr"\nkind = "regression"'}
    for content, changes in (
        ("text,label\ncaf\xe9,x\n", changed),
        ("text,label\na, b,x\n", changed),
        ("text,label\na,x\nb,\n", changed),
        ("text,label\na,2\nb,2\n", regression),
        ("text,label\na,x\nb,y\n", changed | {'"accuracy"': '"f1"'}),
    ):
        for split in ("train", "validation", "test"):
            (place / f"{split}.csv").write_text(content, encoding="cp1252")
        yield run("study", "create", write(**changes))
    (place / "train.jsonl").write_text('{"text": null, "label": "x"}\n')
    yield run("study", "create", write(**changed))
    (place / "train.csv").unlink()
    yield run("study", "create", write(**changed))
    (place / "train.jsonl").rename(place / "train-00000-of-00002.jsonl")
    yield run("study", "create", write(**changed))


def mistakes_with_databases(write: WriteStudy) -> Iterator[Result]:
    yield run("study", "show", "tiny")
    for url in (
        "hello",
        "postgresql://me:p@ss@localhost/db",
        "@none",
        "sqlite:////no/such/folder/a.db",
        "postgresql+nodriver://me:secret@localhost/db",
    ):
        yield run("study", "create", write(), "--storage", url)
    connection = sqlite3.connect("shop.db")
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    yield run("study", "create", write(), "--storage", "sqlite:///shop.db")
    optuna.create_study(study_name="plain", storage="sqlite:///nasopt.db")
    yield run("study", "show", "plain")
    Path("file").write_text("")
    yield run("study", "create", write(), "--artifacts", "file")


def mistakes_with_studies(write: WriteStudy, data: Path, folder: Path) -> Iterator[Result]:
    """A study is there, and is asked for things that it does not have."""
    moved = folder / "moved"
    moved.mkdir()
    for file in data.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert run("study", "create", write(**{str(data): str(moved)})).code == 0
    yield run("study", "create", write())
    yield run("study", "create", write(), "--skip-if-exists")
    yield run("study", "show", "tinny")
    yield run("study", "delete", "tiny")
    yield run("study", "export", "tiny", "--to", "m")
    for choice in (("--trial", 3), ("--best", "size<3"), ("--best", "memory_mb<3")):
        yield run("study", "export", "tiny", "--to", "m", *choice)
    yield run("study", "controls", "tiny")
    yield run("study", "optimize", "tiny", "--n-trials", 0)
    (moved / "test.csv").write_text("text,label\n")
    yield run("study", "optimize", "tiny")
    moved.rename(folder / "gone")
    yield run("study", "optimize", "tiny")
    for old, new in [('"trust_remote_code": false', '"trust_remote_code": true'), ('"max_length"', '"max_lenght"')]:
        with closing(sqlite3.connect("nasopt.db")) as connection:
            change = "UPDATE study_user_attributes SET value_json = replace(value_json, ?, ?)"
            connection.execute(change, [old, new])
            connection.commit()
        yield run("study", "optimize", "tiny")


def mistakes_with_folders(write: WriteStudy) -> Iterator[Result]:
    """Artifact folders that are gone, or another study's, and studies that are half made or under way."""
    assert run("study", "create", write(), "--name", "whole").code == 0
    url, folder = "sqlite:///nasopt.db", Path("nasopt.db.artifacts", "whole")
    (folder / CLAIM).rename("claim")
    yield run("study", "optimize", "whole")
    Path("claim").rename(folder / CLAIM)
    optuna.copy_study(from_study_name="whole", from_storage=url, to_storage=url, to_study_name="copy")
    yield run("study", "optimize", "copy")
    shutil.rmtree(folder)
    yield run("study", "optimize", "whole")
    StudyRecord(creator=worker_identity()).write_to(optuna.create_study(study_name="half", storage=url))
    yield run("study", "show", "half")
    trial = optuna.load_study(study_name="whole", storage=url).ask()
    TrialRecord(worker={**worker_identity(), "host": "elsewhere"}).write_to(trial)
    yield run("study", "delete", "whole", "--yes")


@pytest.mark.usefixtures("study_folder")
def test_every_explained_line_is_printed(
    write_study: WriteStudy, tiny_bert: Path, sentiment: Path, tmp_path: Path
) -> None:
    results = [
        *mistakes_in_files(write_study, tiny_bert, sentiment, tmp_path),
        *mistakes_in_data(write_study, sentiment, tmp_path),
        *mistakes_with_databases(write_study),
        *mistakes_with_studies(write_study, sentiment, tmp_path),
        *mistakes_with_folders(write_study),
    ]
    printed = [result.err.removesuffix("\n") for result in results]
    assert {result.code for result in results} == {2}
    patterns = {line: ".*".join(map(re.escape, line.split("..."))) for line in EXPLAINED}
    assert len(patterns) > 20
    for line, pattern in patterns.items():
        assert any(re.fullmatch(pattern, text) for text in printed), f"not printed: {line}\n" + "\n".join(printed)
    for text in printed:
        assert any(re.fullmatch(pattern, text) for pattern in patterns.values()), f"not explained: {text}"
