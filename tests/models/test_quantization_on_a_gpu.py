"""Models in fewer bits on a GPU: their bits are those of the CPU, and what is exported reads back as it ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import crossed
from gpu import CUDA, needs_cuda
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from nasopt.architecture.artifacts import TORCH_PRECISIONS
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.export.folder import export_config
from nasopt.measurement.measured.latency import fixed_inputs
from nasopt.measurement.measured.runtimes import RuntimeSettings, forget_compiled, prepare
from nasopt.models.quantization import check_kernels, quantize, stored_tensors
from nasopt.models.surgery import cut

pytestmark = needs_cuda

FAMILIES = ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"]
TOLERANCES = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.2, "int8": 0.5, "int4": 1.5}


def inputs(tokens: int = 16) -> dict[str, torch.Tensor]:
    return fixed_inputs(2, tokens, vocab_size=100, special_ids=[0], device=CUDA)


@pytest.mark.parametrize(("family", "precision"), crossed(FAMILIES, TORCH_PRECISIONS, usual=("bert", "int8")))
def test_bits_are_those_of_the_cpu_and_outputs_near_those_of_fp32(make_model, family, precision):
    check_kernels(precision, CUDA)
    model = make_model(family, hidden=128)
    ours, theirs = (stored_tensors(quantize(model, precision, device)) for device in ("cpu", CUDA))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(theirs[name].cpu(), tensor), name
    smaller, whole = quantize(model, precision, CUDA), model.to(CUDA)
    assert {parameter.device for parameter in smaller.parameters()} == {CUDA}
    with torch.inference_mode():
        expected, found = whole(**inputs()).logits, smaller(**inputs()).logits.float()
    assert (found - expected).abs().max() <= TOLERANCES[precision] * expected.abs().max()


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
def test_empty_blocks_and_odd_widths(make_model, precision):
    target = Architecture((KeptUnits((0, 3), tuple(range(65))), None, KeptUnits((), tuple(range(0, 128, 2)))))
    model = cut(make_model("bert", hidden=128), target)
    with torch.inference_mode():
        found = quantize(model, precision, CUDA)(**inputs()).logits.float()
        expected = model.to(CUDA)(**inputs()).logits
    assert (found - expected).abs().max() <= TOLERANCES[precision] * expected.abs().max()


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
def test_what_is_saved_reads_back_on_the_gpu(make_model, precision, tmp_path: Path):
    model = quantize(make_model("bert", hidden=128), precision, CUDA)
    config, tensors = export_config(model), stored_tensors(model)
    expected = model(**inputs()).logits
    config.save_pretrained(tmp_path)
    save_file(
        {name: tensor.cpu() for name, tensor in tensors.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path, device_map={"": 0}, dtype="auto")
    with torch.inference_mode():
        torch.testing.assert_close(found(**inputs()).logits, expected)


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_every_precision_runs_in_a_captured_graph(make_model, precision, runtime):
    """LLM.int8 and NF4 have kernels that a graph can hold."""
    forget_compiled()
    model = quantize(make_model("bert", hidden=128), precision, CUDA)
    graphed = prepare(model, [inputs()], RuntimeSettings(runtime, 1, cuda_graph=True), device=CUDA)
    other = {**inputs(), "input_ids": inputs()["input_ids"].flip(1)}
    with torch.inference_mode():
        for batch in (inputs(), other):
            expected = model(**batch).logits.float()
            found = graphed(**batch).logits.float()
            assert (found - expected).abs().max() <= 0.2 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_in_a_captured_graph(make_model, family):
    model = quantize(make_model(family, hidden=128), "fp32", CUDA)
    graphed = prepare(model, [inputs()], RuntimeSettings("eager", 1, cuda_graph=True), device=CUDA)
    with torch.inference_mode():
        torch.testing.assert_close(graphed(**inputs()).logits, model(**inputs()).logits, rtol=1e-3, atol=1e-4)
