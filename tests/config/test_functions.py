"""Functions that a study file names: checked without importing, imported from the current folder last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nasopt.config.functions import check_function_name, deferred, load_function, source_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path  # type: ignore[misc]
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["json", "json:", ":dumps", "a b:f", "a/b:f", "../a:f", "a:f()", "a..b:f", "a:b:c"])
def test_other_forms_are_refused(name: str) -> None:
    for use in (check_function_name, load_function, deferred, source_files):
        with pytest.raises(ValueError, match=r"package\.module:function"):
            use(name)


def test_what_cannot_be_imported_is_one_line(folder: Path) -> None:
    (folder / "broken_here.py").write_text("1 / 0\n")
    for name, words in [
        ("json:nothing", "cannot be imported"),
        ("not_here_at_all:f", "cannot be imported"),
        ("json:__doc__", "is not a function"),
        ("broken_here:f", "cannot be imported: ZeroDivisionError"),
    ]:
        with pytest.raises(ValueError, match=words):
            load_function(name)


def test_the_current_folder_comes_last_and_leaves(folder: Path) -> None:
    (folder / "json.py").write_text("raise SystemExit('the current folder came first')\n")
    (folder / "lies_here.py").write_text("import json, sys\nPATH = list(sys.path)\ndef f():\n    return PATH\n")
    path = load_function("lies_here:f")()
    assert path[-1] == str(folder)
    assert str(folder) not in sys.path


def test_a_deferred_function_is_imported_when_it_is_called(folder: Path) -> None:
    (folder / "called_late.py").write_text("def double(x, *, plus=0):\n    return 2 * x + plus\n")
    function = deferred("called_late:double")
    assert "called_late" not in sys.modules
    assert function(3, plus=1) == 7


def test_source_files_are_found_without_importing(folder: Path) -> None:
    package = folder / "outer_here" / "inner"
    package.mkdir(parents=True)
    files = [folder / "outer_here" / "__init__.py", package / "__init__.py", package / "module.py"]
    for file in files:
        file.write_text("raise SystemExit('imported')\n")
    assert source_files("outer_here.inner.module:f") == tuple(files)
    assert source_files("outer_here.inner.none:f") == tuple(files[:2])
    assert source_files("not_here_at_all:f") == ()
    assert source_files("builtins:exec") == ()
    files[0].unlink()
    files[1].unlink()
    assert source_files("outer_here.inner.module:f") == (files[2],), "namespace packages"
