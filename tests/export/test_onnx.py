"""ONNX files of tiny models, in a real ONNX Runtime."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import mostly_slow
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

import nasopt
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.reading import read_architecture
from nasopt.errors import ExportError, MissingExtraError
from nasopt.export import onnx as module
from nasopt.export.folder import export_hf
from nasopt.export.onnx import BF16_NOTE, check_convertible, export_onnx
from nasopt.models import onnx as conversion
from nasopt.models.example_inputs import input_names
from nasopt.models.families import FAMILIES
from nasopt.models.loading import load_tokenizer
from nasopt.models.modeling_adabert import AdaBertConfig
from nasopt.models.onnx import FP16_TOLERANCE, OnnxModel
from nasopt.models.outputs import main_output
from nasopt.models.quantization import quantize
from nasopt.models.searchcell import Supernet, freeze
from nasopt.models.surgery import cut

pytestmark = pytest.mark.integration

for package in module.PACKAGES:
    pytest.importorskip(package, reason=f"the extra `onnx` is not installed: no package {package}")

FILES = {"README.md", "config.json", "model.onnx", "nasopt.json", "tokenizer.json", "tokenizer_config.json"}
ALL = tuple(range(64))
# No heads; some heads and half the neurons; no neurons.
IRREGULAR = Architecture((KeptUnits((), ALL), KeptUnits((0, 3), ALL[32:]), KeptUnits((2,), ())))

# One layer where sizes do not matter: converting takes seconds per layer.
SMALL = Architecture((None, None, KeptUnits((1,), ALL)))


def make(
    family: str = "bert", architecture: Architecture = IRREGULAR, auto: Any = AutoModelForSequenceClassification
) -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": 40, "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 32}
    sizes["hidden_dim" if family == "distilbert" else "intermediate_size"] = 64
    sizes |= {"max_position_embeddings": 64, "pad_token_id": 0, "id2label": {0: "negative", 1: "positive"}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **sizes)
        model = auto.from_config(config, trust_remote_code=False)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return cut(model.eval(), architecture)


@pytest.fixture
def tokenizer(tiny_bert: Path):
    return load_tokenizer(str(tiny_bert), None, False)


def write(model: PreTrainedModel, tokenizer, to: Path, precision="fp32", **options: Any) -> Path:
    return export_onnx(model, tokenizer, IRREGULAR.with_precision(precision), to, **{"card": "# A model\n", **options})


def difference(model: PreTrainedModel, folder: Path, batch_size: int, tokens: int) -> float:
    ids = torch.randint(5, 40, (batch_size, tokens), generator=torch.Generator().manual_seed(tokens))
    mask = torch.ones_like(ids)
    mask[::2, max(tokens // 3, 1) :] = 0
    with torch.inference_mode():
        found = main_output(OnnxModel(folder / "model.onnx", threads=1)(input_ids=ids, attention_mask=mask))
        expected = main_output(model(input_ids=ids, attention_mask=mask))
    assert found.dtype == expected.dtype
    return float((found.float() - expected.float()).abs().max())


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, ("bert", "modernbert")))
def test_every_family_is_traced_and_runs_the_same_with_empty_blocks(tokenizer, tmp_path: Path, family, monkeypatch):
    monkeypatch.setattr(conversion, "_export_program", None)  # seconds a layer: the way for what cannot be traced
    model = make(family)
    folder = write(model, tokenizer, tmp_path / "out")
    assert {file.name for file in folder.iterdir()} == FILES
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    for batch_size, tokens in ((1, 2), (2, 33), (9, 60)):
        assert difference(model, folder, batch_size, tokens) <= 1e-4

    session = OnnxModel(folder / "model.onnx").session
    names = [item.name for item in session.get_inputs()]
    has_segments = family in ("bert", "roberta", "electra")  # DeBERTa takes some, and does nothing with them
    given = [name for name in tokenizer.model_input_names if name != "token_type_ids" or has_segments]
    assert names == input_names(model, given)
    assert {item.name: item.shape for item in session.get_inputs()} == {name: ["batch", "sequence"] for name in names}
    assert [(item.name, item.shape) for item in session.get_outputs()] == [("logits", ["batch", 2])]
    import onnx

    operators = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert "IsNaN" not in operators, "fused attention was traced, with its checks for texts without any token"
    for trace in (b"stack_trace", b"site-packages", str(Path(nasopt.__file__).parent).encode()):
        assert trace not in (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, ("bert",)))
def test_heads_for_tokens_give_logits_of_every_token(tokenizer, tmp_path: Path, family):
    model = make(family, auto=AutoModelForTokenClassification)
    folder = write(model, tokenizer, tmp_path / "out")
    for batch_size, tokens in ((1, 2), (9, 60)):
        assert difference(model, folder, batch_size, tokens) <= 1e-4
    (output,) = OnnxModel(folder / "model.onnx").session.get_outputs()
    assert (output.name, output.shape) == ("logits", ["batch", "sequence", 2])


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, ("bert",)))
def test_heads_for_answers_have_two_outputs(tokenizer, tmp_path: Path, family):
    model = make(family, auto=AutoModelForQuestionAnswering)
    folder = write(model, tokenizer, tmp_path / "out")
    for batch_size, tokens in ((1, 2), (9, 60)):
        assert difference(model, folder, batch_size, tokens) <= 1e-4
    found = OnnxModel(folder / "model.onnx").session.get_outputs()
    assert [(item.name, item.shape) for item in found] == [
        ("start_logits", ["batch", "sequence"]),
        ("end_logits", ["batch", "sequence"]),
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "architecture",
    [
        CellArchitecture(("conv3", "conv1", "maxpool", "dilconv3", "avgpool", "conv5"), 32),
        CellArchitecture(("skip", "skip"), 32, embedding_rank=8),
    ],
    ids=["chain", "bag"],
)
def test_convolutional_students_run_the_same(tokenizer, tmp_path: Path, architecture: CellArchitecture, precision):
    config = AdaBertConfig(vocab_size=40, hidden_size=32, embedding_rank=architecture.embedding_rank, num_labels=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = quantize(freeze(Supernet(config, len(architecture.cells)), architecture), precision, "cpu")
    folder = export_onnx(model, tokenizer, architecture.with_precision(precision), tmp_path / "out", card="")
    assert {file.name for file in folder.iterdir()} == FILES | {"modeling_adabert.py"}
    for batch_size, tokens in ((1, 1), (1, 2), (2, 33), (9, 60)):
        assert difference(model, folder, batch_size, tokens) <= (1e-5 if precision == "fp32" else FP16_TOLERANCE)
    record = json.loads((folder / "nasopt.json").read_text())
    assert read_architecture(json.dumps(record["architecture"])) == architecture.with_precision(precision)
    assert AutoConfig.from_pretrained(folder, trust_remote_code=False).cells == model.config.cells
    read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert read("the film was good").input_ids == tokenizer("the film was good").input_ids


def test_the_folder_says_what_it_is_and_reads_without_nasopts_types(tokenizer, tmp_path: Path):
    folder = write(
        make(), tokenizer, tmp_path / "out", card=lambda file: f"{file.name} of {file.stat().st_size} bytes\n"
    )
    assert (folder / "README.md").read_text() == f"model.onnx of {(folder / 'model.onnx').stat().st_size} bytes\n"
    record = json.loads((folder / "nasopt.json").read_text())
    assert record["precision"] == "fp32"
    assert Architecture.from_json(json.dumps(record["architecture"])) == IRREGULAR
    assert {"nasopt", "torch", "transformers", "onnx", "onnxscript", "onnxruntime"} <= record.keys()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    assert config.model_type == "bert"
    assert config.id2label == {0: "negative", 1: "positive"}
    read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert read("the film was good").input_ids == tokenizer("the film was good").input_ids
    with pytest.raises(ExportError, match=r"model\.safetensors"):
        nasopt.load(folder)


def test_fp16_stays_fp16_and_bf16_becomes_fp32(tokenizer, tmp_path: Path, caplog):
    half = quantize(make(), "fp16", "cpu")
    folder = write(half, tokenizer, tmp_path / "fp16", "fp16")
    assert OnnxModel(folder / "model.onnx").session.get_outputs()[0].type == "tensor(float16)"
    assert difference(half, folder, 5, 20) <= FP16_TOLERANCE
    assert json.loads((folder / "nasopt.json").read_text())["precision"] == "fp16"
    assert not [record for record in caplog.records if record.name == "nasopt"]

    brain = quantize(make(), "bf16", "cpu")
    with caplog.at_level(logging.WARNING, "nasopt"):
        written = write(brain, tokenizer, tmp_path / "bf16", "bf16")
    assert [record.message for record in caplog.records if "bf16 is written as fp32" in record.message]
    assert brain.dtype == torch.bfloat16
    assert difference(quantize(make(), "bf16", "cpu").float(), written, 5, 20) <= 1e-4
    assert BF16_NOTE in (written / "README.md").read_text()
    assert json.loads((written / "nasopt.json").read_text())["precision"] == "fp32"
    sizes = [(place / "model.onnx").stat().st_size for place in (folder, written)]
    assert sizes[1] > sizes[0]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_bitsandbytes_models_are_refused_with_a_way_out(tokenizer, tmp_path: Path, precision):
    model = quantize(make("bert", Architecture((KeptUnits((0, 1, 2, 3), ALL),) * 3)), "int8", "cpu")
    for named in (precision, "fp32"):  # by the precision that was asked for, and by the model's own layers
        with pytest.raises(ExportError, match=r"--format hf, or choose a trial in fp32, bf16 or fp16") as caught:
            write(model, tokenizer, tmp_path / "out", named)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(MissingExtraError, match=r"`no_such_package` is not installed: pip install 'nasopt\[onnx\]'"):
        check_convertible("fp32")
    with pytest.raises(ExportError, match="int8 cannot be written as ONNX"):
        check_convertible("int8")  # whatever is installed


def test_importing_needs_no_extra():
    import subprocess

    code = "import sys, nasopt.export.onnx; print(sorted({'onnx', 'onnxscript', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_file_with_other_outputs_is_not_left_behind(tokenizer, tmp_path: Path, monkeypatch):
    def converted_from_another(model, names, file, to):
        with torch.no_grad():
            model.classifier.bias += 0.5
            convert(model, names, file, to)
            model.classifier.bias -= 0.5

    convert = module._convert
    monkeypatch.setattr(module, "_convert", converted_from_another)
    with pytest.raises(ExportError, match=r"outputs that differ by 0\.5 \(0\.0001 is allowed in fp32\)"):
        write(make(architecture=SMALL), tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_fails_leaves_nothing_behind(tokenizer, tmp_path: Path):
    def card(file: Path) -> str:
        raise RuntimeError("no measurement")

    with pytest.raises(RuntimeError, match="no measurement"):
        write(make(architecture=SMALL), tokenizer, tmp_path / "out", card=card)
    assert list(tmp_path.iterdir()) == []


def test_files_that_onnx_runtime_cannot_read_are_not_left_behind(tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "_convert", lambda model, names, file, to: file.write_bytes(b"no model"))
    with pytest.raises(ExportError, match="ONNX Runtime cannot read the file"):
        write(make(architecture=SMALL), tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_convert_is_told_in_one_line(tokenizer, tmp_path: Path):
    class Branching(torch.nn.Module):
        def forward(self, hidden_states):
            return hidden_states + 1 if hidden_states.sum() > 0 else hidden_states

    model = make(architecture=SMALL)
    model.dropout = Branching()
    with pytest.raises(ExportError, match="torch cannot convert the model to ONNX") as caught:
        write(model, tokenizer, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_models_beyond_one_file_are_refused(tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_MB", 0.01)
    with pytest.raises(ExportError, match="do not fit one ONNX file; use --format hf"):
        write(make(architecture=SMALL), tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_forcing_replaces_the_model_of_the_other_form(tokenizer, tmp_path: Path):
    model, folder = make(architecture=SMALL), tmp_path / "out"
    export_hf(model, tokenizer, SMALL, folder, card="")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="not empty"):
        write(model, tokenizer, folder)
    write(model, tokenizer, folder, force=True)
    assert {file.name for file in folder.iterdir()} == FILES | {"notes.txt"}
    export_hf(model, tokenizer, SMALL, folder, card="", force=True)
    expected = FILES - {"model.onnx"} | {"notes.txt", "model.safetensors", "modeling_nasopt.py"}
    assert {file.name for file in folder.iterdir()} == expected
