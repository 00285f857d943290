"""Files of killed writers, and rights to read written files: real processes, killed while they write."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nasopt.host.files import remove_abandoned, remove_partial_files, scratch_folder, working_folder

pytestmark = pytest.mark.integration

CHECKPOINT = """
import sys, torch
from pathlib import Path
from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.storage.checkpoints import CheckpointStore
architecture = Architecture.full(EncoderShape(num_layers=1, num_heads=1, ffn_size=64, hidden_size=8))
CheckpointStore(Path(sys.argv[1])).write({"a": torch.ones(100_000_000)}, architecture)
"""
SCRATCH = """
import time
from nasopt.host.files import scratch_folder
with scratch_folder() as folder:
    (folder / "model.onnx").write_bytes(b"half")
    time.sleep(60)
"""
MODES = """
import os, sys, torch
from pathlib import Path
from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.host.files import write_atomically
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.tensors import write_tensors
os.umask(int(sys.argv[2], 8))
folder = Path(sys.argv[1]) / "study"
architecture = Architecture.full(EncoderShape(num_layers=1, num_heads=1, ffn_size=64, hidden_size=8))
CheckpointStore(folder / "checkpoints").write({"a": torch.ones(3)}, architecture)
write_tensors(folder / "made", {"a": torch.ones(3)})
write_atomically(folder / "base.json", "{}")
"""


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, **environment})


def kill_when(process: subprocess.Popen[bytes], folder: Path, pattern: str) -> Path:
    """Kills the process as soon as it has begun to write such a file, and returns that."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in folder.rglob(pattern):
            if path.is_file():
                process.send_signal(signal.SIGKILL)
                process.wait()
                return path
    process.kill()
    pytest.fail(f"no {pattern} was written")


def test_what_a_killed_writer_of_a_checkpoint_leaves_is_removed(tmp_path: Path) -> None:
    left = kill_when(start(CHECKPOINT, tmp_path / "checkpoints"), tmp_path, ".tmp*/*")
    assert left.exists()  # whatever name safetensors gave it
    remove_partial_files(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    with working_folder(tmp_path) as folder:
        (folder / ".tmpAbCdEf").write_bytes(b"half")
        (tmp_path / ".tmpGhIjKl").write_bytes(b"somebody else's")
        remove_partial_files(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, ".tmpGhIjKl"}
        assert (folder / ".tmpAbCdEf").exists()
        os.utime(tmp_path / ".tmpGhIjKl", (0, 0))
        remove_partial_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_next_scratch_folder_removes_those_of_killed_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nasopt.tmp-notes").mkdir()  # a user's own
    left = kill_when(start(SCRATCH, TMPDIR=str(tmp_path)), tmp_path, "model.onnx")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as folder:
        assert folder.is_dir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not left.parent.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["nasopt.tmp-notes"]


def test_a_link_is_removed_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    left = kill_when(start(SCRATCH, TMPDIR=str(tmp_path)), tmp_path, "model.onnx")
    name = left.parent.name
    left.unlink()
    left.parent.rmdir()
    (tmp_path / name).symlink_to(tmp_path / "precious")
    remove_abandoned(tmp_path, "nasopt")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(("umask", "mode"), [("022", 0o644), ("002", 0o664), ("077", 0o600)])
def test_the_umask_decides_who_may_read_whatever_wrote_the_file(tmp_path: Path, umask: str, mode: int) -> None:
    assert start(MODES, tmp_path, umask).wait() == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4  # with the lock of the checkpoints
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == dict.fromkeys(
        (path.name for path in files), oct(mode)
    )
