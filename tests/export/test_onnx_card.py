"""An exported ONNX file runs by the code of its model card where there is neither torch nor nasopt."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from nasopt.architecture.artifacts import ARTIFACTS
from nasopt.architecture.base import Precision
from nasopt.architecture.encoder import Architecture
from nasopt.export.onnx import PACKAGES, export_onnx
from nasopt.export.onnx_card import running_text
from nasopt.models.onnx import OnnxModel
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.trial.artifact import make_onnx

pytestmark = pytest.mark.integration

for package in PACKAGES:
    pytest.importorskip(package, reason=f"the extra `onnx` is not installed: no package {package}")

NEEDED = ("onnxruntime", "tokenizers", "numpy")
ABSENT = ("torch", "transformers", "nasopt")
CPU = torch.device("cpu")


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Distributions and all that they require, without extras."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        needs = map(Requirement, distribution(name).requires or ())
        left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the installed packages that the card names, and of nothing else."""
    folder = tmp_path_factory.mktemp("site")
    for name in with_requirements(NEEDED):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}
        for top in tops:
            target = Path(str(installed.locate_file(top)))
            if target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    return folder


def write(context: Context, precision: Precision, to: Path) -> OnnxModel:
    """Exports the base model in a precision of ONNX Runtime's; its card is what tells how to run it."""
    candidate = Candidate(context.base_model, Architecture.full(context.shape, precision), Lineage())
    tokenizer, kind = context.task.tokenizer, ARTIFACTS["onnxruntime"][precision]
    file = make_onnx(candidate, kind, tokenizer.model_input_names, context.splits["train"], 16)
    config = candidate.model.config
    export_onnx(
        candidate.model,
        tokenizer,
        candidate.architecture,
        to,
        card=lambda path: running_text(context.task, OnnxModel(path), config),
        artifact=file,
    )
    return file


def code_of(folder: Path, texts: list[str]) -> str:
    """The card's code, for that folder and these texts."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code, folders = re.subn(re.escape('Path("this folder")'), lambda _: f"Path({str(folder)!r})", code)
    code, lines = re.subn(r"^texts = .*$", lambda _: f"texts = {texts!r}", code, flags=re.MULTILINE)
    assert (folders, lines) == (1, 1)
    return code


def test_the_cards_code_gives_the_evaluated_logits_without_torch_and_nasopt(
    context: Context, site: Path, sentiment: Path, tmp_path: Path
) -> None:
    split = context.splits["validation"]
    assert isinstance(split, EncodedSplit)
    with (sentiment / "validation.csv").open() as rows:
        texts = [row["text"] for row in csv.DictReader(rows)][:8]
    precisions: tuple[Precision, ...] = ("fp32", "int8", "int8-static")
    files = {precision: write(context, precision, tmp_path / precision) for precision in precisions}
    lines = [
        "import importlib.util, json, sys",
        f"sys.path.insert(0, {str(site)!r})",
        f"assert not any(map(importlib.util.find_spec, {ABSENT!r}))",
        "found = {}",
    ]
    for precision in precisions:
        lines += [code_of(tmp_path / precision, texts), f"found[{precision!r}] = outputs.tolist(), labels"]
    lines += ["import json", "print(json.dumps(found))"]
    # Isolated, and without the site's packages: it sees the standard library, and the folder.
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    names = context.base_model.config.id2label
    for precision, (outputs, labels) in json.loads(ran.stdout).items():
        expected = context.task.evaluate(files[precision], split.select(torch.arange(8)), CPU).outputs
        assert expected is not None
        assert np.abs(np.array(outputs) - np.asarray(expected)).max() <= 1e-4
        assert labels == [names[int(index)] for index in np.asarray(expected).argmax(axis=1)]


def test_the_card_tells_inputs_outputs_labels_and_the_longest_text(context: Context, tmp_path: Path) -> None:
    write(context, "fp32", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert f"| input | `{name}` | int64 | texts x tokens |" in card
    assert "| output | `logits` | float32 | texts x 2 |" in card
    assert "at most 32 tokens" in card
    assert "0 is `negative`, 1 is `positive`" in card
