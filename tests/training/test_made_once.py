"""A value that is made once is read from its file, and made again where that is damaged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nasopt.training.made_once import made_once


def test_it_is_made_again_only_where_its_file_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return {"kept": torch.arange(1000)}

    def once() -> Tensor:
        return made_once(tmp_path, "vocabulary", ["a", 1], make)["kept"]

    assert torch.equal(once(), once())
    assert len(made) == 1
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with caplog.at_level("WARNING", logger="nasopt"):
        assert torch.equal(once(), torch.arange(1000))
    assert len(made) == 2
    assert "made again" in caplog.text
    assert torch.equal(once(), torch.arange(1000))
    assert len(made) == 2
