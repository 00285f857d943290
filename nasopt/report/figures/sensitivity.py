"""What the loss of heads and FFN neurons is expected to cost, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from nasopt.errors import FigureError
from nasopt.host.object_store import fetch_tree
from nasopt.report.figures.shapes import folder_of
from nasopt.report.figures.style import COLOURS, styled
from nasopt.samplers.guidance import guide_of

FOLDER = "sensitivity"
CRITERIA = ("obs", "fisher")
"""The stored orders of units; that of the surgeon is the one that units are cut by where there are both."""
PARTS = {"heads": "attention heads", "ffn": "FFN neurons"}

Blocks = Mapping[tuple[str, int], NDArray[np.float64]]
"""By part and layer: the loss expected with 0, ..., all units of the block, from the largest to 0."""


def sensitivity(study: optuna.Study, folder: Path | None = None) -> go.Figure:
    """The expected rise of the training loss where a layer keeps none, or half, of its heads or FFN neurons.

    Args:
        study: the study.
        folder: its artifact folder; None for the one that the study names.

    Raises:
        FigureError: the study stores no sensitivities.
    """
    blocks = _from_guide(study) or _from_files(folder_of(study, folder))
    if not blocks:
        raise FigureError("the study stores no sensitivities: its method, or its options, asked for none")
    figure = make_subplots(rows=2, subplot_titles=tuple(PARTS.values()), vertical_spacing=0.2)
    for row, part in enumerate(PARTS, 1):
        found = {layer: losses for (name, layer), losses in sorted(blocks.items()) if name == part}
        for name, colour, at in (("none of them kept", COLOURS[0], 0.0), ("half of them kept", COLOURS[5], 0.5)):
            figure.add_scatter(
                x=[str(layer) for layer in found],
                y=[float(np.interp(at, np.linspace(0, 1, len(losses)), losses)) for losses in found.values()],
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                mode="markers",
                marker={
                    "color": colour,
                    "size": 11,
                    "symbol": "circle" if at == 0 else "circle-open",
                    "line": {"width": 2, "color": colour},
                },
                hovertemplate=f"layer %{{x}}, {name}: %{{y:.3g}}<extra></extra>",
                row=row,
                col=1,
            )
    styled(figure, "Sensitivity of each layer", height=540, headings=True)
    figure.update_yaxes(title_text="rise of the loss", type="log", dtick=1, exponentformat="power")
    figure.update_xaxes(type="category")
    return figure.update_xaxes(title_text="layer of the base model", row=2, col=1)


def _from_guide(study: optuna.Study) -> Blocks:
    """The losses that a study stores itself, for its mutations."""
    found = {}
    for name, block in guide_of(study).items():
        part, _, layer = name.partition("_")
        if part in PARTS and layer.isdecimal():
            counts = np.linspace(0, block.counts[-1], len(block.counts))
            found[part, int(layer)] = block.at(counts.tolist()).errors
    return found


def _from_files(folder: Path | None) -> Blocks:
    """The losses in the artifact folder: of each block its units' values, and errors as shares of their sum."""
    from safetensors import SafetensorError, safe_open

    if folder is None:
        return {}
    fetch_tree(folder / FOLDER)
    paths = [path for criterion in CRITERIA for path in sorted((folder / FOLDER).glob(f"{criterion}-*.safetensors"))]
    for path in paths:
        try:
            with safe_open(path, framework="np") as file:
                names = set(file.keys())
                count = sum(name.endswith(".errors") for name in names)
                return {
                    (tuple(PARTS)[index % 2], index // 2): _losses(
                        file.get_tensor(f"{index}.values"), file.get_tensor(f"{index}.errors")
                    )
                    for index in range(count)
                }
        except (SafetensorError, OSError):
            continue  # it is made again by the next trial that needs it
    return {}


def _losses(values: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = np.asarray(errors, dtype=np.float64) * float(np.sum(values))
    return losses
