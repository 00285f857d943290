"""Architectures of every kind from their JSON, those of other packages too."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.reading import read_architecture

MODULE = """
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Average:
    layers: int

    @classmethod
    def from_json(cls, text):
        return cls(json.loads(text)["layers"])

    def build(self, base_model):
        return base_model
"""


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture((KeptUnits((0, 2), (1, 2, 3, 7)), None), "int8", (0, 1, 5)),
        CellArchitecture(("conv3", "skip"), 16, embedding_rank=4),
    ],
    ids=["encoder", "cells"],
)
def test_what_was_written_is_read(architecture: Architecture | CellArchitecture) -> None:
    assert read_architecture(architecture.to_json()) == architecture


def test_another_package_reads_its_own_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "averaging.py").write_text(MODULE)
    metadata = tmp_path / "averaging-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: averaging\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[nasopt.architectures]\naverage = averaging:Average\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = read_architecture('{"kind": "average", "layers": 3}')
    assert type(found).__name__ == "Average"
    assert found.layers == 3  # type: ignore[attr-defined]


def test_a_kind_that_no_package_knows_is_named() -> None:
    with pytest.raises(ValueError, match="of the kind 'wheel', which no installed package knows"):
        read_architecture('{"kind": "wheel"}')
