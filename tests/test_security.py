"""What holds for the whole tree: nothing is unpickled, no model's code runs unasked, and no password gets about."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from command_line import run, succeed
from processes import NASOPT, start_code

from nasopt.config.task import TaskConfig
from nasopt.storage.rdb import parse_url

ROOT = Path(__file__).parents[1]
OURS = [path for part in ("nasopt", "scripts", "benchmarks", "examples") for path in (ROOT / part).rglob("*.py")]
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pickletools"}
UNPICKLING = {"torch.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load"}
PASSWORD = "pass-word-7"
"""The password of the tests' server."""
RUNNING = {"eval", "exec", "compile", "__import__"}


def imports(node: ast.AST) -> Iterator[str]:
    """The packages that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield (node.module or "").partition(".")[0]


def unsafe(text: str) -> list[str]:
    """Places of a module where something may be unpickled, or text becomes code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        found += [f"{node.lineno}: {name}" for name in imports(node) if name in PICKLING]  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {item.arg: item.value for item in node.keywords}
        is_array = name.rpartition(".")[2] == "load" and name.partition(".")[0] in ("np", "numpy")
        is_off = isinstance(pickled := options.get("allow_pickle"), ast.Constant) and pickled.value is False
        if name in UNPICKLING | RUNNING or (is_array and not is_off) or (pickled is not None and not is_off):
            found.append(f"{node.lineno}: {name}")
    return found


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    assert len(OURS) > 250
    found = {str(path.relative_to(ROOT)): uses for path in OURS if (uses := unsafe(path.read_text(encoding="utf-8")))}
    # A benchmark reads arrays of booleans that it wrote itself; the default of `np.load` refuses pickles.
    assert set(found) <= {"benchmarks/alphanas_exhaustive.py"}, found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x', weights_only=True)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.save('x', y, allow_pickle=allowed)",
        "eval('1')",
    ],
)
def test_what_unpickles_or_runs_text_is_seen(text: str) -> None:
    assert unsafe(text)


def test_code_that_comes_with_a_model_runs_only_if_the_study_file_says_so() -> None:
    assert TaskConfig.model_fields["trust_remote_code"].default is False
    calls = 0
    for path in (ROOT / "nasopt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            options = {item.arg: item.value for item in node.keywords}
            name, trust = ast.unparse(node.func), options.get("trust_remote_code")
            assert not (isinstance(trust, ast.Constant) and trust.value is not False), f"{path}:{node.lineno}"
            if name.endswith(".from_pretrained"):  # unless told, transformers asks on a terminal
                calls += 1
                assert trust is not None, f"{path}:{node.lineno}"
    assert calls >= 5


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and that those have."""
    for place in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = place.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def seen_in_the_list_of_processes(pid: int) -> set[bytes]:
    """Command lines and titles of a process and of those that it has started."""
    found = set()
    for number in (pid, *descendants(pid)):
        for name in ("cmdline", "comm"):
            try:
                found.add(Path(f"/proc/{number}/{name}").read_bytes())
            except OSError:
                continue
    return found


@pytest.fixture
def folder(
    tmp_path: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> Path:
    """The current folder, empty but for the files of a study on PostgreSQL, where $NASOPT_STORAGE names it."""
    folder, study_file = tmp_path / "here", write_study()
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NASOPT_STORAGE", postgres_url)
    assert parse_url(postgres_url).password == PASSWORD
    assert PASSWORD not in succeed("study", "create", study_file, "--debug").err
    return folder


def kept(folder: Path, url: str) -> list[str]:
    """All that is in a folder's files, and in a database."""
    texts = [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    engine = sqlalchemy.create_engine(parse_url(url))
    with engine.connect() as connection:
        for table in sqlalchemy.inspect(engine).get_table_names():
            texts += [str(row) for row in connection.exec_driver_sql(f'SELECT * FROM "{table}"')]
    engine.dispose()
    return texts


@pytest.mark.integration
def test_a_password_is_in_no_error_and_no_traceback(folder: Path, postgres_url: str) -> None:
    storage = ("--storage", postgres_url, "--debug")
    wrong = ("--storage", postgres_url.replace("@/study", "@/nosuch"), "--debug")
    for command, words in [
        (("list", *wrong), "cannot be opened"),
        (("create", "nosuch.toml", *storage), "no such study file"),
        (("show", "nosuch", *storage), "no study 'nosuch' in postgresql"),
        (("export", "tiny", "--trial", 0, "--to", "model", *storage), "there is no such trial"),
    ]:
        result = run("study", *command)
        assert result.code == 2
        assert "Traceback" in result.err
        assert words in result.err
        assert PASSWORD not in result.out + result.err
    texts = kept(folder, postgres_url)
    assert any("alembic" in text or "tiny" in text for text in texts)
    assert not [text[:300] for text in texts if PASSWORD in text]


@pytest.mark.integration
@pytest.mark.slow
def test_a_password_is_nowhere_but_where_the_user_put_it(
    folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers with --debug, a report, an export, the folder of files, the database."""
    running = start_code(NASOPT, "study", "optimize", "tiny", "--n-trials", 2, "--workers", 2, "--debug")
    lines: set[bytes] = set()
    assert running.process.pid is not None
    while running.process.is_alive():
        lines |= seen_in_the_list_of_processes(running.process.pid)
        time.sleep(0.1)
    result = running.wait()
    assert result.returncode == 0, result.stderr
    assert any(b"spawn_main" in line for line in lines), "the workers were seen"
    texts = [result.stdout + result.stderr]
    monkeypatch.delenv("NASOPT_STORAGE")
    option = ("--storage", postgres_url)
    for command in (
        ("report", "tiny", "--to", "page.html"),
        ("report", "tiny", "-f", "json"),
        ("export", "tiny", "--trial", 0, "--to", "model"),
    ):
        shown = succeed("study", *command, *option, "--debug")
        texts.append(shown.out + shown.err)
    assert "--storage @FILE" in (folder / "page.html").read_text()
    texts += kept(folder, postgres_url)
    assert len(texts) > 50
    assert not [text[:300] for text in texts if PASSWORD in text]
    assert not [line for line in lines if os.fsencode(PASSWORD) in line]
