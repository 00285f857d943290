"""Tiny models and data sets, built in code."""

from __future__ import annotations

import csv
import json
import multiprocessing.util
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from nasopt.host.collection import collect_rarely

if TYPE_CHECKING:
    from mariadb import MariaDB
    from postgres import Server

    from nasopt.training.context import Context

os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # before anything imports datasets, as the command line does

# How fast a machine is, or how busy, decides no test.
settings.register_profile("nasopt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nasopt")

# Before anything imports torch, as the command line does.
collect_rarely()

WORDS = {"good": 1, "great": 1, "fine": 1, "lovely": 1, "bad": 0, "awful": 0, "poor": 0, "sad": 0}
FILLERS = ["the", "film", "was", "a", "story", "and", "plot", "very", "of", "it"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many integration tests come first: the last ones, which one process may run alone, are short."""
    counts = Counter(item.path for item in items if item.get_closest_marker("integration"))
    items.sort(key=lambda item: -counts[item.path])


@pytest.fixture(scope="session", autouse=True)
def _measure_shortly() -> None:
    from processes import measure_shortly

    measure_shortly()


@pytest.fixture
def workers_that_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes are forked from one that has imported everything, which takes seconds for each that is new.

    They measure as shortly as this process.
    """
    from processes import CONTEXT, run_worker

    from nasopt.execution import local

    monkeypatch.setattr(local, "PROCESSES", CONTEXT)
    monkeypatch.setattr(local, "run_in_process", run_worker)


@pytest.fixture(scope="session", autouse=True)
def _read_versions_of_the_schema_once() -> None:
    """Optuna reads the scripts of its schema anew for each database that is opened, and tests open thousands.

    They are the installed package's, whichever database it is; that a database has the right version is still checked.
    """
    from optuna.storages._rdb.storage import _VersionManager

    read, scripts = _VersionManager._create_alembic_script, []

    def read_once(self: _VersionManager) -> Any:
        if not scripts:
            scripts.append(read(self))
        return scripts[0]

    _VersionManager._create_alembic_script = read_once  # type: ignore[method-assign]


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder_of_the_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of this process and of those it starts, and with them the lock on the device, are its own.

    Test processes that run beside each other would else wait for each other's measurements, which are nobody's.
    """
    tmp_path_factory.getbasetemp()  # pytest's folder stays where it is,
    multiprocessing.util.get_temp_dir()  # and that of multiprocessing, which is there until the process ends
    compiled = Path(tempfile.gettempdir()) / f"nasopt-tests-compiled-{os.getuid()}"  # shared, as torch shares it
    with tempfile.TemporaryDirectory(prefix="nasopt-tests-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # PostgreSQL runs as another user
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled)))
            patch.setenv("TMPDIR", folder)
            patch.setattr(tempfile, "tempdir", folder)
            yield


@pytest.fixture(scope="session", autouse=True)
def _state_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Trust that tests grant is noted in a folder of theirs, not in the user's, whose database is none of theirs."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["NASOPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("NASOPT_STORAGE", None)


def write_sentiment_csv(
    folder: Path, sizes: dict[str, int], labels: tuple[str, str] = ("negative", "positive")
) -> None:
    """A learnable two-class data set: each text holds one word that decides its label."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, size in sizes.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for _ in range(size):
                word = generator.choice(list(WORDS))
                words = generator.choices(FILLERS, k=generator.randint(2, 12))
                words.insert(generator.randint(0, len(words)), word)
                writer.writerow([" ".join(words), labels[WORDS[word]]])


def write_pairs(folder: Path, sizes: Mapping[str, int], translation: Mapping[str, str], longest: int = 5) -> Path:
    """Parallel texts in the columns `first` and `second`: random words, translated word by word."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, size in sizes.items():
        rows = ["first,second"]
        for _ in range(size):
            words = generator.choices(list(translation), k=generator.randint(1, longest))
            rows.append(f"{' '.join(words)},{' '.join(translation[word] for word in words)}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_label_sets(folder: Path, sizes: Mapping[str, int]) -> Path:
    """Texts of random words with a list of labels: `praise`, `blame` and `film` stand for words that occur."""
    folder.mkdir(parents=True, exist_ok=True)
    signs = {"praise": {"good", "great", "fine"}, "blame": {"bad", "sad", "poor"}, "film": {"film"}}
    generator = random.Random(0)
    for split, size in sizes.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for _ in range(size):
                words = generator.choices([*FILLERS, *WORDS], k=4)
                labels = [label for label, its in signs.items() if its & set(words)]
                file.write(json.dumps({"text": " ".join(words), "label": labels}) + "\n")
    return folder


def write_rankings(folder: Path, queries: Mapping[str, int], passages: int = 6) -> Path:
    """Queries of two random words with passages; the relevance is the share of the query's words in a passage."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, size in queries.items():
        rows = ["id,query,passage,label"]
        for number in range(size):
            words = generator.sample(list(WORDS), k=2)
            for place in range(passages):
                others = [word for word in WORDS if word not in words]
                chosen = [*words[: place % 3], *generator.sample(others, k=2), *generator.choices(FILLERS, k=2)]
                generator.shuffle(chosen)
                rows.append(f"{number},{' '.join(words)},{' '.join(chosen)},{place % 3 / 2}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_collection(
    folder: Path,
    passages: Mapping[str, tuple[str | None, str]],
    queries: Mapping[str, str],
    judged: Mapping[str, Sequence[tuple[str, str, int]]],
) -> Path:
    """A folder of BEIR's format: passages (title, text) and queries by id, and the judgements of each split."""
    (folder / "qrels").mkdir(parents=True)
    texts = {"corpus": [{"_id": key, "title": title, "text": text} for key, (title, text) in passages.items()]}
    texts["queries"] = [{"_id": key, "text": text} for key, text in queries.items()]
    for name, rows in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, its in judged.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in its)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_tagged_words(folder: Path, sizes: Mapping[str, int]) -> Path:
    """Lists of random words with tags: runs of good words are `PRAISE`, runs of bad ones `BLAME`; a fifth is long."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, size in sizes.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for row in range(size):
                words = generator.choices(
                    [*FILLERS, *FILLERS, *WORDS], k=40 if row % 5 == 0 else generator.randint(3, 9)
                )
                tags: list[str] = []
                for word in words:
                    kind = {1: "PRAISE", 0: "BLAME", None: None}[WORDS.get(word)]
                    begun = bool(tags) and tags[-1][2:] == kind
                    tags.append("O" if kind is None else f"{'I' if begun else 'B'}-{kind}")
                file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    return folder


def write_questions(folder: Path, sizes: Mapping[str, int], *, unanswerable: bool = False) -> Path:
    """Questions in SQuAD's columns, made by a rule: the answer is the context's run of good words.

    There are bad words besides, a fifth of the contexts is long, and if `unanswerable` a third has no good words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    good, bad = ([word for word, its in WORDS.items() if its == kind] for kind in (1, 0))
    for split, size in sizes.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for row in range(size):
                answer = " ".join(generator.choices(good, k=generator.randint(1, 3)))
                has_answer = not unanswerable or row % 3 != 0
                before, after = (generator.choices([*FILLERS, *bad], k=generator.randint(1, 5)) for _ in range(2))
                if row % 5 == 0:
                    before += generator.choices(FILLERS, k=20)
                context = " ".join([*before, *([answer] if has_answer else []), *after])
                start = len(" ".join(before)) + 1
                answers = (
                    {"text": [answer], "answer_start": [start]} if has_answer else {"text": [], "answer_start": []}
                )
                question = f"was the {generator.choice(['film', 'plot', 'story'])} very good"
                file.write(json.dumps({"question": question, "context": context, "answers": answers}) + "\n")
    return folder


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small sentiment data set with the splits train, validation and test."""
    folder = tmp_path_factory.mktemp("sentiment")
    write_sentiment_csv(folder, {"train": 160, "validation": 60, "test": 60})
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT encoder without a head: 3 layers, 4 heads, FFN 128, hidden size 64."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    tokenizer = word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_tokenizer():  # type: ignore[no-untyped-def]
    """A word-level tokenizer over the words of the data set, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *FILLERS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def write_study(tmp_path: Path, tiny_bert: Path, sentiment: Path) -> Callable[..., Path]:
    """Writes a study file on the tiny model and data; keyword arguments replace its parts.

    `options` come after those of a small search, for the genetic method; other methods have these alone.
    """
    from study_text import GENETIC, study_text

    def write(
        name: str = "tiny", extra: str = "", options: str = "", method: str = "genetic", **replacements: str
    ) -> Path:
        options = f"{GENETIC}{options}" if method == "genetic" else options
        text = study_text(tiny_bert, sentiment, options, name=name, method=method, tables=extra)
        for old, new in replacements.items():
            assert old in text, f"{old!r} is not in the study file"
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def study_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one; the database of commands that name none is made in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NASOPT_STORAGE", raising=False)
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Context:
    """Data and base model of a small study without trials. Tests only read it: see `context`."""
    from study_text import study_text

    from nasopt.config.study import StudyConfig
    from nasopt.trial.preparation import prepare

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "tiny.toml").write_text(study_text(tiny_bert, sentiment, ""))
    config = StudyConfig.from_toml(folder / "tiny.toml")
    return prepare(config, folder / "tiny", lambda phase, done, total: None, has_trials=False)


@pytest.fixture
def context(prepared: Context, tmp_path: Path) -> Context:
    """The same with files and a base model of its own."""
    import copy
    import shutil
    from dataclasses import replace

    from nasopt.storage.checkpoints import CheckpointStore

    folder = tmp_path / "prepared"
    shutil.copytree(prepared.folder, folder)
    return replace(
        prepared,
        base_model=copy.deepcopy(prepared.base_model),
        checkpoints=CheckpointStore(folder / "checkpoints"),
        folder=folder,
        _kept={},
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A real PostgreSQL server; tests that ask for it skip, with the reason, where there can be none."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed: pip install 'nasopt[dev]'")
    from postgres import CannotStartError, running_server

    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_server())
        except (CannotStartError, OSError) as error:
            pytest.skip(f"PostgreSQL cannot start here: {error}")
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> str:
    """A new database on the server, as a user writes it: without a driver, with a password."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A real MariaDB server; tests that ask for it skip, with the reason, where there can be none."""
    pytest.importorskip("pymysql", reason="MariaDB's driver is not installed: pip install 'nasopt[dev]'")
    from mariadb import CannotStartError, running_mariadb

    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_mariadb())
        except (CannotStartError, OSError) as error:
            pytest.skip(f"MariaDB cannot start here: {error}")
        yield server


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> str:
    """A new database on the server, as a user writes it."""
    return mariadb.new_database()
