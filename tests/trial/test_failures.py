"""Errors are classed: the candidate's fail a trial, the machine's end the work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import files_of_at_most
from safetensors.torch import save_file

from nasopt.errors import (
    ArtifactFolderError,
    CheckpointError,
    DatasetError,
    MachineError,
    MissingExtraError,
    TrainingDivergedError,
)
from nasopt.host.files import lock_in
from nasopt.trial.failures import PROBE_BYTES, explaining_machine, machine_failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study's artifact folder, with a file of the study."""
    (tmp_path / "base.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    "error",
    [
        TrainingDivergedError("the loss became nan"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch.AcceleratorError("CUDA error: out of memory"),
        CheckpointError("the checkpoint is damaged"),
        ValueError("the quality is nan"),
        DatasetError("Read-only file system"),  # ours: what it says is what it means
    ],
)
def test_what_a_candidate_does(error: Exception, folder: Path) -> None:
    assert machine_failure(error, folder) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/b"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        ConnectionResetError("by peer"),
        RuntimeError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
        RuntimeError("write failed: No space left on device"),
        torch.AcceleratorError("CUDA error: the launch timed out and was terminated"),
        ArtifactFolderError("/a: the artifact folder cannot be written"),
        MissingExtraError("onnx", "onnx"),
        MachineError("the study's artifact folder is gone"),
    ],
)
def test_what_the_machine_does(error: Exception, folder: Path) -> None:
    reason = machine_failure(error, folder)
    assert reason is not None
    assert str(error) in reason
    wrapped = ValueError("could not be done")
    wrapped.__cause__ = error
    assert machine_failure(wrapped, folder) == reason


def test_what_libraries_really_raise(tmp_path: Path) -> None:
    """Errors of Rust, of Python and of NumPy."""
    rng = np.random.default_rng(0)
    writers = [
        lambda: save_file({"a": torch.zeros(100_000)}, tmp_path / "a"),
        lambda: (tmp_path / "b").write_bytes(bytes(400_000)),
        lambda: np.savez_compressed(tmp_path / "c", a=rng.random(100_000)),
    ]
    for writer in writers:
        with files_of_at_most(200_000), pytest.raises(Exception, match="File too large") as caught:
            writer()
        assert machine_failure(caught.value, tmp_path) is not None


def test_a_folder_that_cannot_be_used_explains_any_error(folder: Path) -> None:
    error = CheckpointError("the checkpoint is not there")
    assert "is gone" in (machine_failure(error, folder / "gone") or "")
    with files_of_at_most(PROBE_BYTES // 2):
        assert machine_failure(error, folder) == f"{folder}: cannot be written (File too large)"
    assert [path.name for path in folder.iterdir()] == ["base.json"]


def test_a_folder_that_goes_while_a_lock_is_taken_is_gone(folder: Path) -> None:
    """Taking a lock makes the folder anew."""
    lock = lock_in(folder, ".study.lock")
    (folder / "base.json").unlink()
    folder.rmdir()
    with lock:
        assert folder.is_dir()
        error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / "weights"))
        assert "is gone" in (machine_failure(error, folder) or "")
    with pytest.raises(MachineError, match="bring it back"):
        lock_in(folder, ".study.lock")


def test_outside_of_a_trial(folder: Path) -> None:
    with pytest.raises(MachineError, match=r"No space left .* goes on where"), explaining_machine(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ValueError, match="as it was"), explaining_machine(folder):
        raise ValueError("as it was")
    with pytest.raises(DatasetError), explaining_machine(folder):
        raise DatasetError("a user's")
