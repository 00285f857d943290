import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gpu import CUDA, needs_cuda
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from nasopt.errors import MissingExtraError
from nasopt.measurement.measured.latency import MeasurementError, fixed_inputs, measure_latency
from nasopt.measurement.measured.runtimes import (
    Runtime,
    RuntimeSettings,
    check_runtime,
    forget_compiled,
    numerics,
    prepare,
)
from nasopt.models import onnx
from nasopt.models.quantization import quantize

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=100
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def clean_compiler() -> Iterator[None]:
    yield
    forget_compiled()


def batch(batch_size: int = 2, tokens: int = 16, device: torch.device = CPU) -> dict[str, torch.Tensor]:
    return fixed_inputs(batch_size, tokens, vocab_size=100, special_ids=[0], device=device)


def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(**inputs).logits
    return found.float()


def test_eager_is_the_model_itself(model: BertForSequenceClassification) -> None:
    assert prepare(model, [batch()], RuntimeSettings("eager", 1), device=CPU) is model


def test_a_file_is_opened_with_the_settings_of_the_measurement(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    onnx.convert(model, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    file, one_text = onnx.OnnxModel(tmp_path / "model.onnx", 2), batch(1, 2)
    prepared = prepare(file, [one_text], RuntimeSettings("onnxruntime", 1), device=CPU)
    assert prepared is not file
    assert prepare(file, [one_text], RuntimeSettings("onnxruntime", 2), device=CPU) is file, "sessions are reused"
    assert isinstance(prepared, onnx.OnnxModel)
    assert prepared.session.get_session_options().intra_op_num_threads == 1
    for inputs in (one_text, batch(3, 9)):
        assert torch.allclose(logits(prepared, inputs), logits(model, inputs), atol=1e-5)
    measured = measure_latency(prepared, prepared, one_text, device=CPU, threads=1, max_pairs=10)
    assert measured.median_ms > 0


@pytest.mark.slow
@pytest.mark.usefixtures("clean_compiler")
def test_compiled_models_give_the_same_and_are_ready(model: BertForSequenceClassification) -> None:
    inputs = [batch(2, 8), batch(2, 12)]
    prepared = prepare(model, inputs, RuntimeSettings("compile", 1), device=CPU)
    for one in inputs:
        assert torch.allclose(logits(prepared, one), logits(model, one), atol=1e-5)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else sys)
    with pytest.raises(MissingExtraError, match=r"`onnxruntime` is not installed: pip install 'nasopt\[onnx\]'"):
        check_runtime("onnxruntime", CPU)
    for runtime in ("eager", "compile"):
        check_runtime(runtime, CPU)


def test_tf32_is_as_it_was_afterwards() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with numerics(RuntimeSettings("eager", 1, tf32=not before)):
        assert matmul.allow_tf32 is not before
    assert matmul.allow_tf32 is before


@needs_cuda
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_a_captured_graph_gives_the_same(model: BertForSequenceClassification, runtime: Runtime) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    artifact, inputs = quantize(model, "fp16", device), batch(device=device)
    settings = RuntimeSettings(runtime, 1, cuda_graph=True)
    prepared = prepare(artifact, [inputs], settings, device=device)
    other = {**inputs, "input_ids": inputs["input_ids"].flip(0)}
    for one in (inputs, other):
        assert torch.allclose(logits(prepared, one), logits(artifact, one), atol=1e-2)


@needs_cuda
def test_a_graph_keeps_the_model_that_it_reads(model: BertForSequenceClassification) -> None:
    inputs = batch(device=CUDA)
    expected = logits(quantize(model, "fp32", CUDA), inputs)
    prepared = prepare(
        quantize(model, "fp32", CUDA), [inputs], RuntimeSettings("eager", 1, cuda_graph=True), device=CUDA
    )
    gc.collect()
    held = [torch.full((2**18,), torch.nan, device=CUDA) for _ in range(100)]  # in the memory of whatever was freed
    torch.testing.assert_close(logits(prepared, inputs), expected)
    assert len(held) == 100


@needs_cuda
def test_a_model_that_waits_for_the_gpu_is_refused() -> None:
    class Waiting(nn.Module):
        def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
            return input_ids * int(input_ids.sum())

    with pytest.raises(MeasurementError, match=r"cannot be captured as a CUDA graph .* without `cuda_graph`"):
        prepare(Waiting(), [batch(device=CUDA)], RuntimeSettings("eager", 1, cuda_graph=True), device=CUDA)
