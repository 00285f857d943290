"""The code that docs/extending.md shows of a file stands in that file."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = re.compile(r"\]\((\.\./[^)#]+\.(?:py|toml))\)")


def shown() -> list[tuple[Path, str]]:
    """Each block of code with the file that the page has named last before it."""
    text = PAGE.read_text(encoding="utf-8")
    found = [(block, FILES.findall(text[: block.start()])) for block in BLOCKS.finditer(text)]
    return [((PAGE.parent / files[-1]).resolve(), block[2]) for block, files in found if block[1] != "bash"]


@pytest.mark.parametrize(
    ("file", "text"), shown(), ids=lambda value: Path(value).name if isinstance(value, Path) else ""
)
def test_code_is_that_of_the_file(file: Path, text: str) -> None:
    """Methods of a class are shown without their indentation."""
    code = file.read_text(encoding="utf-8")
    assert text in code or textwrap.indent(text, "    ") in code


def test_the_page_shows_every_file_of_the_plugin() -> None:
    files = {file.name for file, _ in shown()}
    assert {"pyproject.toml", "method.py", "architecture.py", "modeling_layer_mean.py", "test_method.py"} <= files
