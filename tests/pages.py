"""README.md, CONTRIBUTING.md and the pages of docs/, and what they show: blocks of code, command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCES = re.compile(r"^```(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("", "bash", "sh", "console")
PROGRAMS = ("nasopt", "make", "pip")


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of every block of code of a page."""
    return FENCES.findall(page.read_text(encoding="utf-8"))


def blocks(language: str) -> list[tuple[Path, str]]:
    """Code blocks of all pages in one language, with their page."""
    return [(page, text) for page in PAGES for name, text in fences(page) if name == language]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every line of a block that runs one of :data:`PROGRAMS`: continued lines are joined, comments and
    variables that are set for one command are dropped."""
    for line in text.replace("\\\n", " ").splitlines():
        if not any(program in line for program in PROGRAMS):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        if words and words[0] in PROGRAMS:
            yield words


def commands(program: str) -> Iterator[list[str]]:
    """Arguments of every command line of all pages that runs `program`."""
    for language in SHELL:
        for _, text in blocks(language):
            yield from (words[1:] for words in command_lines(text) if words[0] == program)
