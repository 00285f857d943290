"""Tensors with their checksum: what was written comes back, and any damage is seen."""

from pathlib import Path

import pytest
import torch

from nasopt.errors import CheckpointError
from nasopt.storage.tensors import read_tensors, write_tensors

SHARED = torch.arange(6.0).reshape(2, 3)
TENSORS = {"a": SHARED, "b": SHARED.T, "c": torch.tensor(3), "d": torch.ones(2, dtype=torch.bfloat16)}


def test_read_returns_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_tensors(file, TENSORS, {"epochs": "3"})
    tensors, metadata = read_tensors(file)
    assert metadata == {"epochs": "3"}
    assert set(tensors) == set(TENSORS)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("position", [0, 60, -1])
def test_a_changed_byte_is_seen(tmp_path: Path, position: int) -> None:
    file = tmp_path / "file"
    write_tensors(file, TENSORS, {"epochs": "3"})
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file: the file is damaged") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off_or_gone_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_tensors(file, TENSORS)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(file)
    file.unlink()
    with pytest.raises(CheckpointError, match="not there"):
        read_tensors(file)
