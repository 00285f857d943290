"""Commands and Python code of the pages run, and the examples in the docstrings that docs/api.md shows.

Where they name a big model, a tiny one stands for it.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import optuna
import pytest
from cases import mostly_slow
from command_line import succeed
from outside_models import write_student
from pages import PAGES, ROOT, SHELL, blocks, command_lines, fences
from study_text import GENETIC, study_text
from transformers import BertConfig

import nasopt
from nasopt import samplers
from nasopt.report import figures

pytestmark = pytest.mark.integration

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NOT_RUN = {
    "make quickstart": "needs the network, and 10 minutes on a real model",
    "make test": "these tests",
    "make test-unit": "these tests",
    "make test-slow": "these tests",
    "make lint": "checks these tests, too",
    "make docs": "tests/docs/test_site.py builds a small site; .ci/run builds the whole one",
    "nasopt dashboard": "serves until it is stopped; tests/report/test_dashboard.py asks it and looks at it",
    "nasopt study optimize reviews --engine ray --workers 8": "needs Ray; tests/execution/test_cluster.py has one",
    "pip install 'nasopt[s3,postgres]'": "changes this environment",
    "pip install 'nasopt[ray,postgres]'": "changes this environment",
    "nasopt study optimize study --engine ray --workers 8 --storage @url.txt": (
        "needs Ray; tests/execution/test_cluster.py has one"
    ),
    "nasopt study create study.toml --storage postgresql://db.example/nas --artifacts s3://models/runs": (
        "needs a server and a store; tests/storage/test_object_store.py has both"
    ),
    "nasopt study optimize study --storage postgresql://db.example/nas --artifacts s3://models/runs": "likewise",
    "pip install ./examples/plugin": "changes this environment; tests/examples/test_plugin.py installs it into another",
}
"""Commands that the pages show and this test does not run, with the reason."""

START = ROOT / "docs" / "start.md"
RUN_IN_ORDER = [START, *(page for page in PAGES if page != START)]
"""The study that the first page creates is used by others."""
SHOWS_PARTS_OF_FILES = ROOT / "docs" / "extending.md"
"""Its Python code is cut out of files, which tests/docs/test_extending.py compares and tests/examples/ runs."""

RUN_ELSEWHERE = {"import mteb": "needs the package mteb; tests/export/test_mteb.py runs it where that is installed"}
"""Starts of lines of Python code that another test runs, with the reason."""

STAND_INS = {
    "NAME": "quickstart",
    "PATH_OR_HUB_ID": "student",
    "--n-trials 50": "--n-trials 2",
    "--workers 2": "--workers 2 --n-trials 2",
    "--trial 12": "--trial 1",
    "--trial 7": "--trial 1",
    "--random-masks 5": "--random-masks 1",
    "--model all-MiniLM-L6-v2": "--model shape --seconds 0.1",
    "--layers 6 --hidden-size 384 --heads 8 --head-size 32 --ffn-size 1024": (
        "--layers 2 --hidden-size 48 --heads 1 --head-size 24 --ffn-size 64"
    ),
    "n_trials=40": "n_trials=2",
    "latency_ms<=5": "latency_ms<=5000",  # of a machine that may be busy
}
"""Parts of a big search or model that are shown, with their stand-ins here: other numbers, the same options."""

SHOWN_STUDY = {
    'model  = "bert-base-uncased"': 'model  = "{model}"',
    'path   = "nyu-mll/glue"': 'path   = "{data}"',
    'name   = "sst2"': "",
    'text   = ["sentence"]': 'text   = ["text"]',
    'splits = { train = "train[2000:]", validation = "train[:2000]", test = "validation" }': (
        'splits = {{ train = "train[40:]", validation = "train[:40]", test = "validation" }}'
    ),
    'device = "cuda"': 'device = "cpu"',
    "sequence_length = 128": "sequence_length = 16",
    "generations = 10": 'generations = 10\nprecisions = ["fp32", "bf16"]',
}
"""Lines of the study file of docs/start.md, and those for the tiny model and a device that is at hand in every test."""


def put_in(text: str, stand_ins: dict[str, str], **names: object) -> str:
    for shown, instead in stand_ins.items():
        text = text.replace(shown, instead.format(**names) if names else instead)
    return text


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Iterator[Path]:
    """The current folder, with all that the pages take for granted and a study `quickstart`, searched a little."""
    folder = tmp_path_factory.mktemp("stage")
    shown = next(text for language, text in fences(START) if language == "toml")
    assert all(line in shown for line in SHOWN_STUDY)
    (folder / "reviews.toml").write_text(put_in(shown, SHOWN_STUDY, model=tiny_bert, data=sentiment))
    study = study_text(tiny_bert, sentiment, f'{GENETIC}precisions = ["fp32", "bf16"]', name="quickstart")
    (folder / "quickstart.toml").write_text(study)
    (folder / "studies").mkdir()
    (folder / "studies" / "quickstart.toml").write_text(study.replace('"quickstart"', '"from-python"'))
    sizes = {"hidden_size": 48, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2}
    BertConfig(**sizes, vocab_size=50).save_pretrained(folder / "shape")
    write_student(folder / "student", ["negative", "positive"])
    heading = "device,layers,hidden_size,heads,ffn_size,sequence_length,batch_size"
    (folder / "shapes.csv").write_text(f"{heading}\na100,12,768,12,3072,128,1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NASOPT_STORAGE", raising=False)
        succeed("study", "create", "quickstart.toml")
        succeed("study", "optimize", "quickstart", "--n-trials", 1)
        yield folder


def to_be_run(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each command line and each block of Python code of a page, in their order."""
    for language, text in fences(page):
        if language in SHELL:
            for words in command_lines(text):
                if shlex.join(words) not in NOT_RUN:
                    yield "shell", put_in(shlex.join(words), STAND_INS)
        elif language == "python" and page != SHOWS_PARTS_OF_FILES and not any(part in text for part in RUN_ELSEWHERE):
            yield "python", put_in(text, STAND_INS)


@pytest.mark.usefixtures("stage", "workers_that_start_at_once")
@pytest.mark.parametrize(
    "page", mostly_slow([page for page in RUN_IN_ORDER if any(to_be_run(page))], (START,)), ids=lambda page: page.name
)
def test_what_a_page_shows_runs(page: Path) -> None:
    for language, text in to_be_run(page):
        if language == "shell":
            program, *arguments = shlex.split(text)
            assert program == "nasopt", f"not run, and not in NOT_RUN: {text}"
            result = succeed(*arguments)
            assert result.out or result.err
        else:
            exec(compile(text, str(page), "exec"), {"__name__": "shown"})


def shown_commands() -> list[str]:
    """Every command line of all pages."""
    shell = (text for page in PAGES for language, text in fences(page) if language in SHELL)
    return [shlex.join(words) for text in shell for words in command_lines(text)]


def test_what_is_not_run_is_shown() -> None:
    assert set(NOT_RUN) <= set(shown_commands())


def test_every_stand_in_stands_for_something() -> None:
    shown = "\n".join([*shown_commands(), *(text for _, text in blocks("python"))])
    assert [part for part in STAND_INS if part not in shown] == []


API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENTED = re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)", API, re.MULTILINE)
"""Dotted names of the classes and functions that docs/api.md shows."""
WITHOUT_EXAMPLE = {
    "nasopt.samplers.EvolutionSampler",  # the base of two others
    "nasopt.samplers.parent_of",
    "nasopt.samplers.proposed_params",
    "nasopt.samplers.is_exhausted",
    "nasopt.report.figures.sensitivity",  # these two show what the study at hand does not store
    "nasopt.report.figures.curves",
}


@pytest.mark.usefixtures("stage")
@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name not in WITHOUT_EXAMPLE])
def test_examples_in_docstrings_run(name: str) -> None:
    home, _, last = name.rpartition(".")
    text = getattr(import_module(home), last).__doc__
    if home == figures.__name__:
        text = f"{figures.__doc__}\n\n{text}"
        if len(optuna.load_study(study_name="quickstart", storage="sqlite:///nasopt.db").trials) < 4:
            succeed("study", "optimize", "quickstart", "--n-trials", 3)
    elif name == "nasopt.load":
        succeed("study", "export", "quickstart", "--trial", 0, "--to", "small-model")
    examples = doctest.DocTestParser().get_doctest(put_in(text, STAND_INS), {}, name, None, None)
    printed: list[str] = []
    results = doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=printed.append)
    shutil.rmtree("small-model", ignore_errors=True)
    assert results.attempted
    assert not results.failed, "".join(printed)


def test_public_names_are_documented() -> None:
    public = [f"nasopt.{name}" for name in nasopt.__all__ if not name.startswith("_")]
    public += [
        f"{module.__name__}.{name}" for module in (samplers, figures) for name in module.__all__ if name != "KINDS"
    ]
    assert set(public) == set(DOCUMENTED)
