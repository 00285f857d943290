"""`create` says what a machine lacks, and `optimize` says it before anything is trained."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import run
from processes import NASOPT, run_code

from nasopt.errors import MissingToolError
from nasopt.models import quantization
from nasopt.models.quantization import check_kernels

pytestmark = pytest.mark.integration
WriteStudy = Callable[..., Path]
CPU = torch.device("cpu")
COMPILED = {'device = "cpu"': 'device = "cpu"\nruntime = "compile"'}


def without_programs(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`nasopt ARGUMENTS` on a machine whose search path holds no program, and so no compiler."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CXX", "CC"):
            patch.delenv(name, raising=False)
        patch.setenv("PATH", str(empty))
        return run_code(NASOPT, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks for the compiler of a CPU")
def test_no_compiler(write_study: WriteStudy, tmp_path: Path) -> None:
    storage = ("--storage", f"sqlite:///{tmp_path}/s.db")
    result = without_programs(tmp_path, "study", "create", write_study(**COMPILED), *storage)
    assert result.returncode == 2
    assert "latency.runtime: `compile` does not work on this machine (No working C++ compiler" in result.stderr
    assert "install a C++ compiler" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("nasopt:")]) == 1
    assert not (tmp_path / "s.db").exists()
    assert run("study", "create", write_study(**COMPILED), *storage).code == 0
    result = without_programs(tmp_path, "study", "optimize", "tiny", *storage)
    assert result.returncode == 2
    assert "latency.runtime: `compile` does not work on this machine" in result.stderr
    assert "tokenising" not in result.stderr
    assert "base model" not in result.stderr


def test_no_kernels(write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of bitsandbytes without its library for this machine cannot be had here: its first call fails instead."""
    for precision in ("fp32", "bf16", "int8", "int4"):
        check_kernels(precision, CPU)  # type: ignore[arg-type]

    def broken(*_arguments: object) -> None:
        raise RuntimeError("Native code method attempted to call: lib.cquantize\nand more")

    check_kernels.cache_clear()
    monkeypatch.setitem(quantization._BITSANDBYTES, "int4", broken)
    with pytest.raises(MissingToolError, match="cannot run int4 on cpu"):
        check_kernels("int4", CPU)
    path = write_study(options='precisions = ["fp32", "int4"]')
    result = run("study", "create", path, "--storage", f"sqlite:///{tmp_path}/s.db")
    assert result.code == 2
    assert "bitsandbytes cannot run int4 on cpu here (Native code method" in result.err
    assert result.err.count("\n") == 1
