"""Commands that README.md and docs/ name exist, examples are accepted, and generated tables are fresh."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from pages import PAGES, ROOT, blocks, commands

import nasopt
from nasopt.cli.app import app
from nasopt.study.creation import read_study_file

LINKS = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def parse(command: Any, arguments: list[str], parent: Any = None) -> str:
    """Parses a command line down to its last subcommand, as running it would, without running it."""
    context = command.make_context(command.name, list(arguments), parent=parent)
    if not hasattr(command, "resolve_command"):
        return str(context.command_path)
    _, subcommand, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return parse(subcommand, rest, context)


COMMANDS = sorted(set(map(tuple, commands("nasopt"))))


def test_commands_are_found() -> None:
    assert len(COMMANDS) >= 8
    assert {words[1] for words in COMMANDS if words[0] == "study"} >= {"create", "optimize", "show", "pareto", "export"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_exist_with_their_options(words: tuple[str, ...]) -> None:
    assert parse(typer.main.get_command(app), list(words)).split()[-1] in words


@pytest.mark.parametrize(
    "words", ["study optimise x", "study show x --colour", "study optimize x --n-trials few", "study"]
)
def test_the_parser_tells_right_from_wrong(words: str) -> None:
    with pytest.raises(Exception, match=r"No such|not a valid|Missing|list index|Input should"):
        parse(typer.main.get_command(app), words.split())


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {words[0] for words in commands("make")}
    assert named
    assert named <= targets


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.name)
def test_shipped_study_files_are_valid(path: Path) -> None:
    assert read_study_file(path).name == path.stem


@pytest.mark.parametrize(("page", "text"), blocks("toml"), ids=lambda value: getattr(value, "name", ""))
def test_shown_study_files_are_valid(page: Path, text: str, tmp_path: Path) -> None:
    """Files that show a part only are completed."""
    missing = {"name": 'name = "shown"\n', "method": 'method = "genetic"\n'}
    shown = tomllib.loads(text)
    text = "".join(line for key, line in missing.items() if key not in shown) + text
    if "task" not in shown:
        text += '\n[task]\nmodel = "m"\n[task.dataset]\npath = "d"\ntext = ["t"]\n'
    (tmp_path / "shown.toml").write_text(text, encoding="utf-8")
    assert read_study_file(tmp_path / "shown.toml").method == shown.get("method", "genetic")


@pytest.mark.parametrize(("page", "text"), blocks("python"), ids=lambda value: getattr(value, "name", ""))
def test_shown_python_names_what_exists(page: Path, text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nasopt":
            getattr(nasopt, node.attr)
        if isinstance(node, ast.ImportFrom):
            found: dict[str, object] = {}
            exec(ast.unparse(node), found)  # a name may be a module that nothing has imported yet
            assert {name.asname or name.name for name in node.names} <= found.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINKS.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_generated_tables_are_fresh(generator: ModuleType, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generator.render(text) == text, "stale: run python scripts/generate_docs.py"


def test_every_key_is_explained(generator: ModuleType) -> None:
    from nasopt.methods.registry import available

    models = [model for _, model, _ in generator.sections(nasopt.StudyConfig)]
    models += [method.about.options for method in available().values()]
    for model in models:
        for name, field in model.model_fields.items():
            if generator.section_of(field.annotation) is None:
                assert field.description, f"{model.__name__}.{name} has no description"


def test_every_key_is_in_the_reference(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
    for path, model, _ in generator.sections(nasopt.StudyConfig):
        assert not path or f"`[{path}]`" in page
        for name, field in model.model_fields.items():
            assert generator.section_of(field.annotation) or f"| `{name}` |" in page
