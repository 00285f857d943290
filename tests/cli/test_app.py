"""The command line: every mistake a user can make gets one line and exit code 2, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from command_line import assert_refused, read, run
from processes import NASOPT as NASOPT_CODE
from processes import start_code
from sqlalchemy.engine import make_url

import nasopt

pytestmark = [pytest.mark.usefixtures("study_folder"), pytest.mark.integration]
WriteStudy = Callable[..., Path]


def test_help_imports_nothing_that_takes_long() -> None:
    code = "import sys, nasopt.cli; sys.argv = ['nasopt', '--help']\ntry: nasopt.cli.main()\nexcept SystemExit: pass\n"
    slow = {"torch", "transformers", "optuna", "datasets", "sklearn", "scipy", "pandas"}
    code += f"print(sorted({slow} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert run("--version").out == f"nasopt {nasopt.__version__}\n"


def test_methods() -> None:
    names = [method["name"] for method in read("methods")]
    assert names == sorted(names)
    assert {"adabert", "alphanas", "genetic"} <= set(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ("study", "show"),
        ("study", "nonsense"),
        ("study", "list", "--colour"),
        ("study", "optimize", "x", "--n-trials", "0"),
        ("study", "trials", "x", "-f", "xml"),
    ],
)
def test_usage_errors_are_one_line(arguments: tuple[str, ...]) -> None:
    assert_refused(run(*arguments))


STUDY_FILE_MISTAKES = [
    ({"[task]": "[task"}, ["tiny.toml", "not valid TOML"]),
    ({"[training]": "[training]\nepoch = 1"}, ["training.epoch: unknown key", "`epochs`"]),
    (
        {'"genetic"': '"genetics"'},
        ["method: 'genetics' is not a method; one of adabert, alphanas, bayesian, fisher, genetic, taylor"],
    ),
    ({'"accuracy"': '"speed"'}, ["task.metric: 'speed'", "accuracy"]),
    ({'"accuracy"': '"spearmanr"'}, ["task.metric: spearmanr does not fit", "accuracy"]),
    ({'device = "cpu"': 'device = "a1000"'}, ["no device profile 'a1000'", "a100-40gb"]),
    (
        {'device = "cpu"': 'device = "a100"', "generations = 2": 'generations = 2\nprecisions = ["fp32", "int4"]'},
        [
            "tensorrt on GPUs runs fp32, fp16, int8,",
            "no artifact in int4 (an ONNX file cannot hold",
            "a study without it",
        ],
    ),
    (
        {
            'device = "cpu"': 'device = "cpu"\nruntime = "onnxruntime"',
            "generations = 2": 'generations = 2\nprecisions = ["fp32", "bf16"]',
        },
        ["onnxruntime on CPUs runs fp32, int8, int8-static, and has no artifact in bf16 (ONNX Runtime lacks"],
    ),
    (
        {"generations = 2": 'generations = 2\nprecisions = ["fp32", "int8-static"]'},
        ["eager on CPUs", "int8-static (it is"],
    ),
    (
        {"[latency]": '[[latency]]\nname = "far"\ndevice = "a100"\nsequence_length = 16\n[[latency]]\nname = "here"'},
        ["in fp32 that of tensorrt (an ONNX file", "not that of eager (torch modules", "create a study for each"],
    ),
    ({'device = "cpu"': 'device = "cpu"\nruntime = "tensorrt"'}, ["latency", "tensorrt is predicted only"]),
    ({'device = "cpu"': 'device = "cpu"\ntf32 = true'}, ["latency", "tf32 and cuda_graph are for CUDA"]),
    ({"sequence_length = 16": "sequence_length = 100"}, ["latency.sequence_length: 100", "at most 64"]),
    ({"max_length = 32": 'max_length = "long"'}, ["task.max_length"]),
    ({"learning_rate = 1e-3": "learning_rate = 0"}, ["training.learning_rate", "greater than 0"]),
    ({"population_size = 4": "population_size = 1"}, ["method_options.population_size"]),
    ({"population_size = 4": "populaton = 4"}, ["method_options.populaton", "population_size"]),
    ({'"restore"]': '"regrow"]'}, ["method_options.mutations", "'regrow' is not a mutation"]),
    ({"generations = 2": 'generations = 2\npruning = "no.such:f"'}, ["method_options.pruning", "cannot be imported"]),
    ({'text = ["text"]': 'text = ["sentence"]'}, ["no column sentence", "it has: text, label"]),
    ({'test = "test"': 'test = "tset"'}, ["no split `tset`", "it has: test, train, validation"]),
]


@pytest.mark.parametrize(("change", "parts"), STUDY_FILE_MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_in_a_study_file(write_study: WriteStudy, change: dict[str, str], parts: list[str]) -> None:
    assert_refused(run("study", "create", write_study(**change)), *parts)
    assert os.listdir() == []


def test_file_and_option_mistakes_are_shown_together(write_study: WriteStudy) -> None:
    path = write_study(**{"[training]": "[training]\nepochs = 0", "population_size = 4": "population_size = 1"})
    assert_refused(run("study", "create", path), "2 errors", "training.epochs", "method_options.population_size")


def test_a_missing_study_file() -> None:
    assert_refused(run("study", "create", "none.toml"), "none.toml: no such study file")


def test_data_that_do_not_exist(write_study: WriteStudy, sentiment: Path) -> None:
    assert_refused(run("study", "create", write_study(**{str(sentiment): "/no/such/data"})), "/no/such/data")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("text,label\n", ["`train`", "empty"]),
        ("text,label\na,x\nb,x\n", ["one class only (x)"]),
        ("text,label\na,x\nb,y\n", ["validation split has the labels negative, positive", "the classes are x, y"]),
    ],
)
def test_data_that_do_not_fit(
    write_study: WriteStudy, sentiment: Path, tmp_path: Path, content: str, parts: list[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for file in sentiment.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "train.csv").write_text(content)
    assert_refused(run("study", "create", write_study(**{str(sentiment): str(folder)})), *parts)


def test_models_that_cannot_be_cut(write_study: WriteStudy, tiny_bert: Path, tmp_path: Path) -> None:
    assert_refused(run("study", "create", write_study(**{str(tiny_bert): str(tmp_path / "nothing")})), "nothing")
    gpt = tmp_path / "gpt"
    gpt.mkdir()
    (gpt / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert_refused(run("study", "create", write_study(**{str(tiny_bert): str(gpt)})), "gpt2", "bert")


def test_labels_that_are_not_the_classes_of_the_head(write_study: WriteStudy, tiny_bert: Path, tmp_path: Path) -> None:
    headed = tmp_path / "headed"
    headed.mkdir()
    for file in tiny_bert.iterdir():
        (headed / file.name).write_bytes(file.read_bytes())
    config = json.loads((headed / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "spam", "1": "ham"}}
    (headed / "config.json").write_text(json.dumps(config | {"label2id": {"spam": 0, "ham": 1}}))
    result = run("study", "create", write_study(**{str(tiny_bert): str(headed)}))
    assert_refused(result, "negative, positive", "spam, ham", "new_head")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("hello", ["not a database URL"]),
        ("sqlite:////no/such/folder/a.db", ["does not exist"]),
        ("postgresql+nodriver://me:secret@localhost/db", ["me:***@localhost", "driver"]),
    ],
)
def test_databases_that_cannot_be_opened(write_study: WriteStudy, url: str, parts: list[str]) -> None:
    result = run("study", "create", write_study(), "--storage", url)
    assert_refused(result, *parts)
    assert "secret" not in result.err


def test_somebody_elses_database(write_study: WriteStudy) -> None:
    connection = sqlite3.connect("shop.db")
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    assert_refused(
        run("study", "create", write_study(), "--storage", "sqlite:///shop.db"), "not a study database", "orders"
    )


def test_optuna_studies_that_are_not_ours() -> None:
    optuna.create_study(study_name="plain", storage="sqlite:///nasopt.db")
    assert_refused(run("study", "show", "plain"), "'plain' was not made by nasopt")
    assert read("study", "list") == []


def test_an_unwritable_artifact_folder(write_study: WriteStudy) -> None:
    Path("file").write_text("")
    assert_refused(run("study", "create", write_study(), "--artifacts", "file"), "cannot be written", "--artifacts")
    assert not Path("nasopt.db").exists()


def test_reading_commands_create_no_database() -> None:
    for command in ("show", "trials", "pareto", "optimize"):
        assert_refused(run("study", command, "x"), "no such database", "nasopt study create")
    assert_refused(run("study", "list"), "no such database")
    assert os.listdir() == []


def test_creating_twice(write_study: WriteStudy) -> None:
    path = write_study()
    assert run("study", "create", path).code == 0
    assert_refused(run("study", "create", path), "'tiny' exists already", "--skip-if-exists")
    assert run("study", "create", path, "--skip-if-exists").code == 0
    changed = write_study(**{"seed = 1": "seed = 2"})
    assert_refused(run("study", "create", changed, "--skip-if-exists"), "its configuration differs")
    assert run("study", "create", changed, "--name", "other").code == 0
    assert [study["name"] for study in read("study", "list")] == ["other", "tiny"]


def test_creating_says_how_the_data_were_read(write_study: WriteStudy) -> None:
    result = run("study", "create", write_study(**{'"accuracy"': '"f1"'}))
    assert "labels are read as 2 classes: negative, positive\n" in result.err
    assert "quality is f1 of the class `positive`\n" in result.err
    assert run("study", "create", write_study(name="quiet"), "--quiet").err == ""


def test_the_class_of_f1_that_the_data_settled_is_no_difference(write_study: WriteStudy) -> None:
    f1 = {'"accuracy"': '"f1"'}
    assert run("study", "create", write_study(**f1)).code == 0
    assert run("study", "create", write_study(**f1), "--skip-if-exists").code == 0
    same = write_study(**{'"accuracy"': '"f1"\npositive_label = "Positive"'})
    assert run("study", "create", same, "--skip-if-exists").code == 0
    other = write_study(**{'"accuracy"': '"f1"\npositive_label = "negative"'})
    assert_refused(run("study", "create", other, "--skip-if-exists"), "its configuration differs")


def test_a_study_that_does_not_exist(write_study: WriteStudy) -> None:
    run("study", "create", write_study())
    assert_refused(run("study", "show", "tinny"), "no study 'tinny'", "it has: tiny")


def test_deleting_asks_only_on_a_terminal(write_study: WriteStudy) -> None:
    run("study", "create", write_study())
    assert_refused(run("study", "delete", "tiny"), "--yes")
    assert run("study", "delete", "tiny", "--yes").code == 0
    assert_refused(run("study", "show", "tiny"), "no study 'tiny'", "none")
    assert not list(Path("nasopt.db.artifacts").iterdir())


def test_exporting_needs_one_choice_and_a_trial(write_study: WriteStudy) -> None:
    run("study", "create", write_study())
    assert_refused(run("study", "export", "tiny", "--to", "m"), "--trial N, by", "--best", "--knee")
    assert_refused(run("study", "export", "tiny", "--to", "m", "--trial", 3), "there is no such trial")
    assert_refused(run("study", "export", "tiny", "--to", "m", "--best", "size<3"), "no value 'size'")
    assert_refused(run("study", "export", "tiny", "--to", "m", "--best", "memory_mb<3"), "no complete trial")
    assert not Path("m").exists()


@pytest.mark.integration
def test_a_password_in_an_option_is_warned_of(
    write_study: WriteStudy, postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password = make_url(postgres_url).password
    assert password
    (tmp_path / "url").write_text(postgres_url)
    shown = [
        run("study", "create", write_study(), "--storage", postgres_url),
        run("study", "list", "--storage", postgres_url),
        run("study", "show", "tiny", "--storage", postgres_url),
    ]
    silent = [
        run("study", "list", "--storage", f"@{tmp_path}/url"),
        run("study", "list", "--quiet", "--storage", postgres_url),
        run("study", "delete", "none", "--yes", "--storage", postgres_url),  # an error is one line
    ]
    monkeypatch.setenv("NASOPT_STORAGE", postgres_url)
    silent.append(run("study", "list"))
    for result in shown:
        assert result.code == 0, result.err
        assert "list of processes" in result.err
        assert "$NASOPT_STORAGE" in result.err
    assert [result.code for result in silent] == [0, 0, 2, 0]
    assert not any("list of processes" in result.err for result in silent)
    assert not any(password in result.err + result.out for result in (*shown, *silent))


NASOPT = [sys.executable, "-P", "-m", "nasopt"]
"""The command in a process of its own; like the console script, and unlike `python -m`, without the current folder."""


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a line of the shell in which "$@" is the command with its arguments."""
    return subprocess.run(
        ["sh", "-c", line, "sh", *NASOPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.integration
def test_streams_that_are_closed_or_full(write_study: WriteStudy) -> None:
    assert run("study", "create", write_study()).code == 0
    closed = shell('exec "$@" >&-', "study", "list")
    assert (closed.returncode, closed.stderr) == (0, "")
    assert shell('exec "$@" 2>&-', "study", "show", "none").returncode == 2
    asked = shell('exec "$@" <&-', "study", "delete", "tiny")
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "--yes" in asked.stderr
    full = shell('exec "$@" > /dev/full', "study", "list")
    assert (full.returncode, full.stderr.count("\n")) == (1, 1), full.stderr
    assert "No space left" in full.stderr
    broken = shell('"$@" | true', "study", "list")
    assert broken.stderr == ""


@pytest.mark.integration
def test_modules_that_lie_in_the_current_folder_are_not_imported(write_study: WriteStudy) -> None:
    Path("chosen_by_the_user.py").write_text("def keep(model, layer, block, units, keep):\n    return units[:keep]\n")
    predicted = {'device = "cpu"': 'device = "a100"', "epochs = 4": "epochs = 1"}  # nothing is to be measured
    assert run("study", "create", write_study(options='pruning = "chosen_by_the_user:keep"', **predicted)).code == 0
    for name in ("queue", "datasets", "socket", "pickle", "torch"):
        Path(f"{name}.py").write_text(f"raise SystemExit('{name}.py of the current folder was imported')\n")
    ran = shell('exec "$@"', "study", "optimize", "tiny", "--n-trials", 2, "--workers", 2)
    assert ran.returncode == 0, ran.stderr
    for name in ("socket", "pickle", "torch"):  # Python itself reads these before it runs the command by its name
        Path(f"{name}.py").unlink()
    listed = subprocess.run(
        [sys.executable, "-m", "nasopt", "study", "list"], capture_output=True, text=True, timeout=120, check=False
    )
    assert listed.returncode == 0, listed.stderr


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_what_becomes_of_the_work(write_study: WriteStudy, number: signal.Signals) -> None:
    assert run("study", "create", write_study()).code == 0
    started = start_code(NASOPT_CODE, "study", "optimize", "tiny")
    while "base model ..." not in started.err and started.process.is_alive():
        time.sleep(0.01)
    assert started.process.pid is not None
    os.kill(started.process.pid, number)
    ended = started.wait(60)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1] == "nasopt: interrupted; what was under way is tried again next time"
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [(), ("study",), ("--help",), ("study", "optimize", "--help")])
def test_help(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.code == 0
    assert result.out.startswith("Usage: ")
