"""Figures as files: pages with plotly.js inside, or pictures that a Chromium draws."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from nasopt.errors import FigureError, MissingExtraError, MissingToolError
from nasopt.host.files import write_atomically

PAGE = ".html"
PICTURES = (".png", ".svg")
WIDTH = 1000
"""Pixels of a picture's width; those of a png are twice as many, for screens and paper."""
CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud"],
    "plotlyServerURL": "",
    "responsive": True,
}
"""plotly.js's: as wide as the page, without the link to its maker and the button that uploads the data to them."""


def write_figure(figure: go.Figure, path: Path) -> None:
    """Writes a figure; the end of the file's name says how.

    Args:
        figure: any.
        path: a file, which is replaced: `.html` for a page that needs no network, `.png`, or `.svg`.

    Raises:
        FigureError: the name has another end, or the file cannot be written.
        MissingExtraError: kaleido is not installed, which draws pictures.
        MissingToolError: kaleido finds no Chromium, or it does not start.
    """
    check_path(path, (PAGE, *PICTURES))
    if path.suffix == PAGE:
        write_text(figure.to_html(include_plotlyjs=True, config=CONFIG), path)
        return
    picture = _picture(figure, path.suffix.removeprefix("."))
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise FigureError(f"{path}: {error.strerror or error}") from None


def write_text(text: str, path: Path) -> None:
    """Writes a page, or a report's JSON, in place of what was there.

    Raises:
        FigureError: it cannot be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise FigureError(f"{path}: {error.strerror or error}") from None


def check_path(path: Path, ends: tuple[str, ...]) -> None:
    """Refuses a file that could not be written, before there is anything to write.

    Raises:
        FigureError: its name has none of the ends, or its folder is not there.
    """
    if path.suffix not in ends:
        raise FigureError(f"--to {path}: the name must end in {' or '.join(ends)}")
    if not path.parent.is_dir():
        raise FigureError(f"--to {path}: the folder {path.parent} is not there")


def _picture(figure: go.Figure, form: str) -> bytes:
    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise MissingExtraError("kaleido", "images") from None
    try:
        picture: bytes = figure.to_image(format=form, width=WIDTH, scale=2 if form == "png" else 1)
    except Exception as error:  # kaleido and its browser fail with types of several packages
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MissingToolError(
            f"pictures need a Chromium or Chrome, which kaleido cannot use here ({reason}): install it, for example by "
            "`apt-get install chromium`, or write .html"
        ) from None
    return picture
