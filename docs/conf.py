"""The documentation as a site: `make docs` builds it from README.md and the Markdown pages of the repository.

The source folder is the repository, so that links between pages, results and files are the same here and in a reader of
Markdown files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

from nasopt import __version__

ROOT = Path(__file__).parents[1]
NAVIGATION = {
    "Begin": ["docs/start", "docs/methods", "docs/study-file", "docs/tasks"],
    "Methods": [f"docs/{name}" for name in ("fisher", "genetic", "alphanas", "adabert", "taylor", "bayesian")],
    "What is measured": ["docs/latency", "docs/lookup", "docs/prediction", "docs/provisional"],
    "What was found": ["docs/controls", "docs/report", "benchmarks/README"],
    "Storage and scaling": ["docs/workers", "docs/cluster", "docs/scaling", "docs/reliability", "docs/security"],
    "Reference": ["docs/api", "docs/troubleshooting"],
    "Extending": ["docs/extending", "examples/plugin/README", "docs/architecture", "CONTRIBUTING", "CHANGELOG"],
}
"""Headings of the sidebar with their pages; the front page is README.md."""
BELOW = {
    "README": list(NAVIGATION.items()),
    "benchmarks/README": [("Results", sorted(f"results/{path.stem}" for path in ROOT.glob("benchmarks/results/*.md")))],
}
"""Tables of contents, by the page that they stand below. Markdown readers would show their source in a page."""

project = "nasopt"
version = release = __version__
copyright = "the nasopt contributors"
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "benchmarks/**.md", "examples/plugin/README.md"]
exclude_patterns = [".*", "build", "quickstart", "nasopt", "tests", "**/site-packages"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"
highlight_language = "none"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "nasopt"
html_copy_source = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]


def add_navigation(_: Sphinx, page: str, text: list[str]) -> None:
    """Gives pages the tables of contents that make the sidebar."""
    for heading, pages in BELOW.get(page, ()):
        text[0] += "\n".join(["\n", ":::{toctree}", ":hidden:", f":caption: {heading}", "", *pages, ":::", ""])


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Makes the front page the one that a web server shows for the folder."""
    if error is None:
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
    app.connect("build-finished", write_index)
