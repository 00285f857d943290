"""Every pair of runtime and precision with a tiny model: what the artifact is, that it works, and what is refused."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import onnx
import pytest
import torch
from transformers import PreTrainedModel

from nasopt.architecture.artifacts import ARTIFACTS, ArtifactKind, precisions_of
from nasopt.architecture.base import PRECISIONS, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import MissingExtraError, StudyFileError
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.sources import LatencySource, check_precisions, make_source
from nasopt.methods.registry import make_method
from nasopt.models import onnx as conversion
from nasopt.models.onnx import OnnxModel
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.trial.artifact import calibration_batches, make_artifact, make_onnx, size_mb
from nasopt.trial.devices import check_one_artifact, latency_sources
from nasopt.trial.evaluation import evaluate, measure_memory

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
WORDS = {
    "eager": ("fp32", "bf16", "fp16", "int8", "int4"),
    "compile": ("fp32", "bf16", "fp16", "int8", "int4"),
    "onnxruntime": ("fp32", "fp16", "int8", "int8-static"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
PAIRS = [(runtime, precision) for runtime, names in WORDS.items() for precision in names]


def candidate_in(context: Context, precision: Precision) -> Candidate:
    return Candidate(context.base_model, Architecture.full(context.shape, precision), Lineage())


def file_of(context: Context, candidate: Candidate, kind: ArtifactKind, texts: int = 128) -> OnnxModel:
    names = context.task.tokenizer.model_input_names
    return make_onnx(candidate, kind, names, context.splits["train"], texts)


def test_the_table_holds_these_pairs() -> None:
    assert {runtime: tuple(kinds) for runtime, kinds in ARTIFACTS.items()} == WORDS
    assert precisions_of("onnxruntime", "cpu") == ("fp32", "int8", "int8-static")
    assert precisions_of("onnxruntime", "cuda") == ("fp32", "fp16")


@pytest.mark.parametrize("runtime", WORDS)
def test_what_is_not_in_the_table_is_refused_in_one_line(runtime: str) -> None:
    for precision in PRECISIONS:
        if precision in WORDS[runtime]:
            continue
        with pytest.raises(StudyFileError, match=f"has no artifact in {precision} \\(.+\\); create a study") as caught:
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
        artifact = file_of(context, candidate, kind)
        assert isinstance(artifact, OnnxModel)
        operators = {node.op_type for node in onnx.load_from_string(artifact.content).graph.node}
        assert artifact.session.get_outputs()[0].type == ("tensor(float16)" if precision == "fp16" else "tensor(float)")
        assert ("MatMulInteger" in operators) is (kind.storage == "dynamic")
        assert ("DequantizeLinear" in operators) is (kind.storage != "float")
        assert ("QuantizeLinear" in operators) is (kind.storage in ("static", "symmetric"))
    megabytes = size_mb(artifact)
    found = context.task.evaluate(artifact, split, CPU)
    allowed = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02, "int8": 0.3, "int8-static": 0.3, "int4": 0.5}[precision]
    assert expected.outputs is not None
    assert found.outputs is not None
    spread = max(1.0, float(abs(expected.outputs).max()))
    assert float(abs(found.outputs - expected.outputs).max()) <= allowed * spread
    assert megabytes > 0


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime", "int8"), ("onnxruntime", "int8-static"), ("tensorrt", "int8")]
)
def test_a_file_that_is_made_again_is_the_same(context: Context, runtime: str, precision: Precision) -> None:
    candidate, kind = candidate_in(context, precision), ARTIFACTS[runtime][precision]
    first, second = (file_of(context, candidate, kind) for _ in range(2))
    assert first.content == second.content


def test_ranges_are_those_of_as_many_texts_as_asked_for(context: Context) -> None:
    candidate, kind = candidate_in(context, "int8-static"), ARTIFACTS["onnxruntime"]["int8-static"]
    assert file_of(context, candidate, kind, texts=1).content != file_of(context, candidate, kind).content
    split, names = context.splits["train"], ["input_ids"]
    drawn = [calibration_batches(split, names, 20) for _ in range(2)]
    assert [len(batch["input_ids"]) for batch in drawn[0]] == [16, 4]
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in zip(*drawn, strict=True))


def test_a_calibrated_file_for_cpus_holds_its_embeddings_in_int8_and_one_for_tensorrt_does_not(
    context: Context,
) -> None:
    def tables(runtime: str, precision: Precision) -> set[int]:
        file = file_of(context, candidate_in(context, precision), ARTIFACTS[runtime][precision])
        graph = onnx.load_from_string(file.content).graph
        rows = context.base_model.config.vocab_size
        return {tensor.data_type for tensor in graph.initializer if list(tensor.dims) == [rows, 64]}

    assert tables("onnxruntime", "int8-static") <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert tables("tensorrt", "int8") == {onnx.TensorProto.FLOAT}


def test_quality_memory_and_latency_are_those_of_the_file(context: Context) -> None:
    latency = LatencyConfig.model_validate(
        {"runtime": "onnxruntime", "threads": 1, "batch_size": 2, "sequence_length": 8}
    )
    config = context.config.model_copy(update={"latency": (latency,)})
    sources = {"latency_ms": MeasuringSource(latency, CPU)}
    candidate = candidate_in(context, "int8")
    found = evaluate(candidate, replace(context, config=config), sources, None)
    file = file_of(context, candidate, ARTIFACTS["onnxruntime"]["int8"])
    assert found.memory.weights_mb == len(file.content) / 1e6
    assert found.memory.form == "onnx"
    assert found.memory.peak_mb >= found.memory.weights_mb
    mine = context.task.evaluate(file, context.splits["validation"], CPU)
    assert mine.outputs is not None
    assert found.evaluation.outputs is not None
    assert (found.evaluation.outputs == mine.outputs).all()
    record = found.latencies["latency_ms"]
    assert (record.runtime, record.dtype) == ("onnxruntime", "int8")


def test_the_peak_of_a_file_is_what_a_pass_needs(context: Context) -> None:
    texts, tokens, heads = 64, 64, 4
    latency = LatencyConfig.model_validate({"runtime": "onnxruntime", "batch_size": texts, "sequence_length": tokens})
    config = context.config.model_copy(update={"latency": (latency,)})
    candidate = candidate_in(context, "int8")
    file = file_of(context, candidate, ARTIFACTS["onnxruntime"]["int8"])
    found = measure_memory(file, file.megabytes, CPU, candidate, replace(context, config=config))
    scores = texts * heads * tokens * tokens * 4 / 1e6  # one layer's, in fp32
    assert scores <= found.peak_mb - found.weights_mb <= 20 * scores


def test_latencies_that_need_two_artifacts_are_refused() -> None:
    def source(runtime: str) -> MeasuringSource:
        return MeasuringSource(LatencyConfig.model_validate({"runtime": runtime}), CPU)

    eager, onnx_runtime = source("eager"), source("onnxruntime")
    with pytest.raises(StudyFileError, match=r"in fp32 that of eager .*not that of onnxruntime .* a study for each"):
        check_one_artifact([eager, onnx_runtime], ("fp32",))
    check_one_artifact([onnx_runtime, onnx_runtime], ("fp32", "int8"))


@no_gpu
def test_a_predicted_and_a_measured_latency_share_what_they_can() -> None:
    predicted = make_source(LatencyConfig.model_validate({"device": "a100"}))
    measured = MeasuringSource(LatencyConfig.model_validate({"runtime": "onnxruntime"}), CPU)
    check_one_artifact([measured, predicted], ("fp32", "fp16"))
    with pytest.raises(StudyFileError, match=r"in int8 that of onnxruntime .*dynamically.* not that of tensorrt"):
        check_one_artifact([measured, predicted], ("fp32", "int8"))
    eager = MeasuringSource(LatencyConfig.model_validate({}), CPU)
    with pytest.raises(StudyFileError, match=r"eager \(torch modules.* not that of tensorrt \(an ONNX file"):
        check_one_artifact([eager, predicted], ("fp32",))


def own_quantizer(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """A user's function, which halves everything."""
    return copy.deepcopy(model).to(torch.bfloat16)


def sources_of(context: Context, latency: dict[str, object], **options: object) -> dict[str, LatencySource]:
    """The sources of a genetic study with this `[latency]`, as `create` makes them."""
    objective = LatencyConfig.model_validate(latency)
    config = context.config.model_copy(update={"latency": (objective,), "method_options": options})
    return latency_sources(config, make_method(config))


def test_an_own_quantizer_makes_torch_modules_and_no_onnx_file(context: Context) -> None:
    options = {"quantization": f"{__name__}:own_quantizer", "precisions": ["fp32", "int8"]}
    with pytest.raises(StudyFileError, match=r"quantization: your function makes torch modules.*onnxruntime"):
        sources_of(context, {"runtime": "onnxruntime"}, **options)
    sources = sources_of(context, {"batch_size": 2, "sequence_length": 8, "threads": 1}, **options)
    found = evaluate(candidate_in(context, "int8"), context, sources, own_quantizer)
    halves = sum(parameter.numel() * 2 for parameter in context.base_model.parameters()) / 1e6
    assert found.memory.weights_mb == pytest.approx(halves, rel=0.01)
    assert found.memory.form is None


@no_gpu
@pytest.mark.parametrize("latency", [{"device": "a100"}, {"runtime": "onnxruntime"}])
def test_a_study_whose_artifacts_are_files_needs_the_packages_that_write_them(
    context: Context, latency: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sources_of(context, latency)
    monkeypatch.setattr(conversion, "find_spec", lambda name: None if name == "onnxscript" else sys)
    with pytest.raises(MissingExtraError, match=r"pip install 'nasopt\[onnx\]'"):
        sources_of(context, latency)


@no_gpu
@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        ({}, ("fp32", "bf16", "fp16", "int8", "int4")),
        ({"runtime": "onnxruntime"}, ("fp32", "int8")),
        ({"device": "a100"}, ("fp32", "fp16", "int8")),
    ],
)
def test_precisions_that_are_proposed_by_default_have_an_artifact(
    context: Context, latency: dict[str, str], expected: tuple[str, ...]
) -> None:
    config = context.config.model_copy(
        update={"latency": (LatencyConfig.model_validate(latency),), "method_options": {}}
    )
    assert make_method(config).plan.precisions == expected
