"""Every pair of runtime and precision with a tiny model: what the artifact is, that it works, and what is refused."""

from __future__ import annotations

import onnx
import pytest
import torch

from nasopt.architecture.artifacts import ARTIFACTS, check_precisions, precisions_of
from nasopt.architecture.base import PRECISIONS, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.errors import StudyFileError
from nasopt.models.onnx import OnnxModel
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.trial.artifact import make_artifact, make_onnx, size_mb

CPU = torch.device("cpu")
WORDS = {
    "eager": ("fp32", "bf16", "fp16", "int8", "int4"),
    "compile": ("fp32", "bf16", "fp16", "int8", "int4"),
    "onnxruntime": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
PAIRS = [(runtime, precision) for runtime, names in WORDS.items() for precision in names]


def candidate_in(context: Context, precision: Precision) -> Candidate:
    return Candidate(context.base_model, Architecture.full(context.shape, precision), Lineage())


def test_the_table_holds_these_pairs() -> None:
    assert {runtime: tuple(kinds) for runtime, kinds in ARTIFACTS.items()} == WORDS
    assert precisions_of("onnxruntime", "cpu") == ("fp32", "int8")
    assert precisions_of("onnxruntime", "cuda") == ("fp32", "fp16")


@pytest.mark.parametrize("runtime", WORDS)
def test_what_is_not_in_the_table_is_refused_in_one_line(runtime: str) -> None:
    for precision in PRECISIONS:
        if precision in WORDS[runtime]:
            continue
        with pytest.raises(StudyFileError, match=f"has no artifact in {precision}; leave that out") as caught:
            check_precisions(runtime, "cuda", ("fp32", precision))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("runtime", "precision"), PAIRS)
def test_every_artifact_answers_like_the_model(context: Context, runtime: str, precision: Precision) -> None:
    kind = ARTIFACTS[runtime][precision]
    candidate = candidate_in(context, precision)
    split = context.splits["validation"]
    expected = context.task.evaluate(context.base_model, split, CPU)
    if kind.form == "torch":
        artifact = make_artifact(candidate, CPU, None)
    else:
        artifact = make_onnx(candidate, kind, context.task.tokenizer.model_input_names, context.splits["train"])
        assert isinstance(artifact, OnnxModel)
        operators = {node.op_type for node in onnx.load_from_string(artifact.content).graph.node}
        assert ("MatMulInteger" in operators) is (kind.storage == "dynamic")
        assert ("DequantizeLinear" in operators) is (kind.storage in ("dynamic", "static"))
        assert ("QuantizeLinear" in operators) is (kind.storage == "static")
    megabytes = size_mb(artifact)
    found = context.task.evaluate(artifact, split, CPU)
    allowed = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02, "int8": 0.3, "int4": 0.5}[precision]
    assert expected.outputs is not None
    assert found.outputs is not None
    spread = max(1.0, float(abs(expected.outputs).max()))
    assert float(abs(found.outputs - expected.outputs).max()) <= allowed * spread
    assert megabytes > 0
