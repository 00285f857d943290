"""An exported ONNX folder loads in `optimum`, in an environment of its own, with the logits that were evaluated."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path

import pytest
import torch

from nasopt.architecture.artifacts import ARTIFACTS
from nasopt.architecture.base import Precision
from nasopt.architecture.encoder import Architecture
from nasopt.export.onnx import PACKAGES, export_onnx
from nasopt.models.example_inputs import named_batch
from nasopt.models.surgery import cut
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.trial.artifact import make_onnx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

for package in PACKAGES:
    pytest.importorskip(package, reason=f"the extra `onnx` is not installed: no package {package}")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "optimum_export.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with optimum, which needs another version of transformers than nasopt does."""
    folder = tmp_path_factory.mktemp("optimum")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, "optimum-onnx[onnxruntime]"], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"optimum-onnx cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    return interpreter


def test_folders_of_every_precision_load_in_optimum(python: Path, context: Context, tmp_path: Path) -> None:
    whole = Architecture.full(context.shape)
    precisions: tuple[Precision, ...] = ("fp32", "int8", "int8-static")
    for precision in precisions:
        architecture = whole.with_precision(precision)
        candidate = Candidate(cut(context.base_model, architecture), architecture, Lineage())
        tokenizer, kind = context.task.tokenizer, ARTIFACTS["onnxruntime"][precision]
        file = make_onnx(candidate, kind, tokenizer.model_input_names, context.splits["train"], 16)
        folder = tmp_path / precision
        export_onnx(candidate.model, tokenizer, architecture, folder, card="", artifact=file)
        batches = [named_batch(candidate.model, file.input_names, *shape) for shape in ((1, 7), (4, 16))]
        inputs, found = tmp_path / "inputs.json", tmp_path / "logits.json"
        inputs.write_text(json.dumps([{name: item.tolist() for name, item in batch.items()} for batch in batches]))
        subprocess.run([python, SCRIPT, "logits", folder, inputs, found], check=True)
        for theirs, ours in zip(json.loads(found.read_text()), batches, strict=True):
            torch.testing.assert_close(torch.tensor(theirs), file(**ours)[0], atol=1e-5, rtol=0)
