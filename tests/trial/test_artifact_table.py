"""Every pair of runtime and precision with a tiny model: what the artifact is, that it works, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch

from nasopt.architecture.artifacts import ARTIFACTS, precisions_of
from nasopt.architecture.base import PRECISIONS, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import StudyFileError
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.sources import check_precisions
from nasopt.models.onnx import OnnxModel
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.trial.artifact import make_artifact, make_onnx, size_mb
from nasopt.trial.devices import check_one_artifact
from nasopt.trial.evaluation import evaluate

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
        assert artifact.session.get_outputs()[0].type == ("tensor(float16)" if precision == "fp16" else "tensor(float)")
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


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "int8"), ("tensorrt", "int8")])
def test_a_file_that_is_made_again_is_the_same(context: Context, runtime: str, precision: Precision) -> None:
    candidate, names = candidate_in(context, precision), context.task.tokenizer.model_input_names
    kind = ARTIFACTS[runtime][precision]
    first, second = (make_onnx(candidate, kind, names, context.splits["train"]) for _ in range(2))
    assert first.content == second.content


def test_quality_memory_and_latency_are_those_of_the_file(context: Context) -> None:
    latency = LatencyConfig.model_validate(
        {"runtime": "onnxruntime", "threads": 1, "batch_size": 2, "sequence_length": 8}
    )
    config = context.config.model_copy(update={"latency": (latency,)})
    sources = {"latency_ms": MeasuringSource(latency, CPU)}
    candidate = candidate_in(context, "int8")
    found = evaluate(candidate, replace(context, config=config), sources, None)
    names = context.task.tokenizer.model_input_names
    file = make_onnx(candidate, ARTIFACTS["onnxruntime"]["int8"], names, context.splits["train"])
    assert found.memory.weights_mb == len(file.content) / 1e6
    assert found.memory.form == "onnx"
    assert found.memory.peak_mb >= found.memory.weights_mb
    mine = context.task.evaluate(file, context.splits["validation"], CPU)
    assert mine.outputs is not None
    assert found.evaluation.outputs is not None
    assert (found.evaluation.outputs == mine.outputs).all()
    record = found.latencies["latency_ms"]
    assert (record.runtime, record.dtype) == ("onnxruntime", "int8")


def test_latencies_that_need_two_artifacts_are_refused() -> None:
    sources = {
        name: MeasuringSource(LatencyConfig.model_validate({"runtime": name}), CPU) for name in ("eager", "onnxruntime")
    }
    with pytest.raises(StudyFileError, match="one artifact, but in fp32 the runtimes eager and onnxruntime"):
        check_one_artifact(sources.values(), ("fp32",))
    check_one_artifact([sources["onnxruntime"], sources["onnxruntime"]], ("fp32", "int8"))
