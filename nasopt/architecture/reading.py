"""Reads architectures of every kind from their JSON."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.cells import KIND as CELLS
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.outside import KIND as OUTSIDE
from nasopt.architecture.outside import OutsideArchitecture

ENTRY_POINTS = "nasopt.architectures"
"""The entry points of other packages' kinds: the name is the kind, the value a class with `from_json(text)` and
`build(base_model)`."""


def read_architecture(text: str) -> CandidateArchitecture:
    """The architecture, of whatever kind, that `to_json` wrote.

    The JSON names its kind under `kind`; an encoder's has no such key.

    Raises:
        ValueError: no installed package knows the kind.
    """
    kind = json.loads(text).get("kind")
    if kind is None:
        return Architecture.from_json(text)
    if kind == CELLS:
        return CellArchitecture.from_json(text)
    if kind == OUTSIDE:
        return OutsideArchitecture.from_json(text)
    found = next(iter(entry_points(group=ENTRY_POINTS, name=kind)), None)
    if found is None:
        raise ValueError(f"the architecture is of the kind {kind!r}, which no installed package knows")
    architecture: CandidateArchitecture = found.load().from_json(text)
    return architecture
