"""What `make docs` would refuse: links and anchors that lead nowhere, pages that the sidebar lacks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import ROOT

import nasopt

pytestmark = pytest.mark.integration
PAGE = """# A page

[A heading](other.md#here) and [a file](../studies/small.toml).

[No heading](other.md#there),

[no page](none.md) and

[no file](../studies/none.toml).
"""


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Builds a site of three pages with the settings of the real one."""
    (folder / "docs").mkdir()
    (folder / "studies").mkdir()
    for file in ("conf.py", "site.css"):
        shutil.copy(ROOT / "docs" / file, folder / "docs")
    with (folder / "docs" / "conf.py").open("a") as settings:
        settings.write('\nBELOW = {"README": [("All", ["docs/page", "docs/other"])]}\n')
    (folder / "README.md").write_text("# Front page\n\n[A page](docs/page.md)\n")
    (folder / "docs" / "page.md").write_text(PAGE)
    (folder / "docs" / "other.md").write_text("# Other\n\n## Here\n")
    (folder / "studies" / "small.toml").write_text("")
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "--fail-on-warning", "--quiet", ".", "site"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_links_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    result = build(tmp_path)
    assert result.returncode == 1
    assert re.findall(r"page\.md:(\d+): WARNING", result.stderr) == ["5", "7", "9"], result.stderr
    front = (tmp_path / "site" / "index.html").read_text()
    assert 'href="docs/other.html"' in front
    assert not re.findall(r"""<(?:link|script|img)[^>]*(?:src|href)=["'](?:https?:)?//""", front), "asks other hosts"


def test_the_citation_is_whole() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == nasopt.__version__
    assert citation["license"] == "Apache-2.0"
    assert all(author["name"] for author in citation["authors"])
