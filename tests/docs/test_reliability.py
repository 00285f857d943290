"""Every test that docs/reliability.md names is there."""

from __future__ import annotations

import ast
import re

from pages import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| ((?:`test_\w+`(?:, )?)+) \|$", PAGE, re.MULTILINE)


def test_every_named_test_exists() -> None:
    defined = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    named = {name for *_, tests in ROWS for name in re.findall(r"\w+", tests)}
    assert len(ROWS) > 30
    assert named == set(re.findall(r"`(test_\w+)`", PAGE)), "a row is malformed"
    assert named <= defined, f"not there: {sorted(named - defined)}"


def test_no_fault_is_named_twice() -> None:
    faults = [fault for fault, *_ in ROWS]
    assert len(faults) == len(set(faults))
