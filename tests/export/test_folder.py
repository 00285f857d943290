from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import crossed
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    pipeline,
)

import nasopt
from nasopt.architecture.artifacts import TORCH_PRECISIONS
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.reading import read_architecture
from nasopt.errors import ExportError
from nasopt.export import folder as export
from nasopt.export.folder import check_target, export_hf
from nasopt.measurement.measured.memory import memory_mb
from nasopt.models.families import FAMILIES
from nasopt.models.loading import load_tokenizer
from nasopt.models.modeling_adabert import AdaBertConfig
from nasopt.models.quantization import bitsandbytes, quantize, stored_tensors
from nasopt.models.surgery import cut

pytestmark = pytest.mark.integration

HEADS, NEURONS = (0, 1, 2, 3), tuple(range(128))
SHAPES = {
    "full": Architecture((KeptUnits(HEADS, NEURONS),) * 3),
    "fewer layers": Architecture((KeptUnits(HEADS, NEURONS), None, KeptUnits(HEADS, NEURONS))),
    "narrower": Architecture((KeptUnits(HEADS, tuple(range(64))),) * 3),
    "pruned": Architecture(
        (KeptUnits((0, 3), NEURONS), KeptUnits((1,), tuple(range(64, 128))), KeptUnits(HEADS, NEURONS))
    ),
    "empty blocks": Architecture((KeptUnits((), NEURONS), None, KeptUnits((2, 3), ()))),
}
CHAINS = {
    "chain": CellArchitecture(("conv3", "skip", "maxpool", "dilconv3", "avgpool", "conv5"), 128),
    "low rank": CellArchitecture(("conv1", "skip"), 128, embedding_rank=64),
    "bag": CellArchitecture(("skip",), 128),
}
STANDARD = {"full", "fewer layers", "narrower"}
FILES = {"README.md", "config.json", "model.safetensors", "nasopt.json", "tokenizer.json", "tokenizer_config.json"}


def make(family: str, shape: str, auto: Any = AutoModelForSequenceClassification) -> PreTrainedModel:
    """Hidden size 128, heads of size 32: sizes that NF4 can do, but for the one-head layer of `pruned`."""
    labels: dict[str, Any] = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    sizes: dict[str, Any] = {"vocab_size": 40, "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 128}
    sizes |= {"max_position_embeddings": 64, "pad_token_id": 0}
    if family == "deberta-v2":
        sizes |= {
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes["hidden_dim" if family == "distilbert" else "intermediate_size"] = 128
        config = AutoConfig.for_model(family, **sizes, **labels)
        model = auto.from_config(config, trust_remote_code=False)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return cut(model.eval(), SHAPES[shape])


def make_student(chain: str) -> PreTrainedModel:
    architecture = CHAINS[chain]
    config = AdaBertConfig(
        vocab_size=40,
        hidden_size=128,
        embedding_rank=architecture.embedding_rank,
        cells=[architecture.cells[index] for index in architecture.kept_cells],
        max_position_embeddings=64,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def tokenizer(tiny_bert: Path):
    return load_tokenizer(str(tiny_bert), None, False)


@pytest.fixture
def texts(tokenizer):
    return tokenizer(["the film was good", "bad"], padding=True, return_tensors="pt", return_token_type_ids=False)


def write(model: PreTrainedModel, tokenizer, shape: str, precision, to: Path, **options: Any) -> Path:
    return export_hf(model, tokenizer, SHAPES[shape].with_precision(precision), to, card="# A model\n", **options)


def test_a_tokenizer_writes_nothing_elsewhere(tokenizer, tmp_path: Path) -> None:
    tokenizer.chat_template = {"default": "x", "../../../escaped": "evil"}  # as a model's tokenizer_config.json can say
    with pytest.raises(ExportError, match="tokenizer cannot be written"):
        write(make("bert", "full"), tokenizer, "full", "fp32", tmp_path / "a" / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("family", "shape", "precision"),
    crossed(
        ["bert", "distilbert", "mpnet", "deberta-v2", "modernbert"],
        SHAPES,
        TORCH_PRECISIONS,
        usual=("bert", "pruned", "fp32"),
    ),
)
def test_exported_models_load_the_same(tokenizer, texts, tmp_path: Path, family, shape, precision):
    model = quantize(make(family, shape), precision, "cpu")
    tensors = {name: tensor.clone() for name, tensor in stored_tensors(model).items()}
    folder = write(model, tokenizer, shape, precision, tmp_path / "out")
    assert {file.name for file in folder.iterdir()} == FILES | (set() if shape in STANDARD else {"modeling_nasopt.py"})
    assert [file.name for file in tmp_path.iterdir()] == ["out"]

    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensors[name]) for name in stored)
    assert sum(t.numel() * t.element_size() for t in stored.values()) == round(memory_mb(tensors) * 1e6)

    with torch.inference_mode():
        expected = model(**texts).logits
        ours, read_tokenizer = nasopt.load(folder)
        plain = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
        assert torch.equal(ours(**texts).logits, expected)
        assert torch.equal(plain(**texts).logits, expected)
    assert type(plain).__module__.startswith("transformers.") is (shape in STANDARD)
    assert ours.config.id2label == {0: "negative", 1: "positive"}
    assert read_tokenizer("the film").input_ids == tokenizer("the film").input_ids
    record = json.loads((folder / "nasopt.json").read_text())
    assert Architecture.from_json(json.dumps(record["architecture"])) == SHAPES[shape].with_precision(precision)
    assert record["nasopt"] == nasopt.__version__
    assert record["precision"] == precision
    assert {"torch", "transformers"} <= record.keys()
    assert ("bitsandbytes" in record) is (precision in ("int8", "int4"))
    assert (folder / "README.md").read_text() == "# A model\n"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", ["narrower", "pruned"])
def test_heads_for_tokens_load_the_same(tokenizer, texts, tmp_path: Path, family, shape):
    model = make(family, shape, AutoModelForTokenClassification)
    folder = write(model, tokenizer, shape, "fp32", tmp_path / "out")
    ours, _ = nasopt.load(folder)
    plain = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=False).eval()
    assert type(ours).__name__ == type(plain).__name__
    with torch.inference_mode():
        expected = model(**texts).logits
        assert expected.shape == (*texts["input_ids"].shape, 2)
        assert torch.equal(ours(**texts).logits, expected)
        assert torch.equal(plain(**texts).logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_for_answers_load_the_same(tokenizer, texts, tmp_path: Path, family):
    model = make(family, "pruned", AutoModelForQuestionAnswering)
    folder = write(model, tokenizer, "pruned", "fp32", tmp_path / "out")
    ours, _ = nasopt.load(folder)
    plain = AutoModelForQuestionAnswering.from_pretrained(folder, trust_remote_code=False).eval()
    assert type(ours).__name__ == type(plain).__name__
    with torch.inference_mode():
        expected, mine, its = (given(**texts) for given in (model, ours, plain))
    assert expected.start_logits.shape == texts["input_ids"].shape
    for name in ("start_logits", "end_logits"):
        assert torch.equal(mine[name], expected[name])
        assert torch.equal(its[name], expected[name])


@pytest.mark.parametrize("precision", TORCH_PRECISIONS)
def test_pipelines_and_saving_again(tokenizer, texts, tmp_path: Path, precision):
    model = quantize(make("bert", "pruned"), precision, "cpu")
    folder = write(model, tokenizer, "pruned", precision, tmp_path / "out")
    classify = pipeline("text-classification", str(folder), trust_remote_code=False)
    assert {item["label"] for item in classify(["a good film", "sad"], top_k=2)[0]} == {"negative", "positive"}
    loaded, tokenizer = nasopt.load(folder)
    loaded.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    again, _ = nasopt.load(tmp_path / "again")
    with torch.inference_mode():
        assert torch.equal(again(**texts).logits, model(**texts).logits)
    assert (tmp_path / "again" / "modeling_nasopt.py").is_file()
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


@pytest.mark.parametrize(("chain", "precision"), crossed(CHAINS, TORCH_PRECISIONS, usual=("chain", "fp32")))
def test_convolutional_students_load_the_same(tokenizer, texts, tmp_path: Path, chain, precision):
    model, architecture = quantize(make_student(chain), precision, "cpu"), CHAINS[chain].with_precision(precision)
    tensors = {name: tensor.clone() for name, tensor in stored_tensors(model).items()}
    folder = export_hf(model, tokenizer, architecture, tmp_path / "out", card="# A model\n")
    assert {file.name for file in folder.iterdir()} == FILES | {"modeling_adabert.py"}
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensors[name]) for name in stored)
    record = json.loads((folder / "nasopt.json").read_text())
    assert read_architecture(json.dumps(record["architecture"])) == architecture

    loaded, tokenizer = nasopt.load(folder)
    loaded.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    again, _ = nasopt.load(tmp_path / "again")
    with torch.inference_mode():
        expected = model(**texts).logits
        assert torch.equal(loaded(**texts).logits, expected)
        assert torch.equal(again(**texts).logits, expected)
    assert (tmp_path / "again" / "modeling_adabert.py").is_file()
    classify = pipeline("text-classification", str(folder), trust_remote_code=False)
    assert {item["label"] for item in classify(["a good film", "sad"], top_k=2)[0]} == {"negative", "positive"}


def test_a_users_quantisation_with_other_settings_is_kept(tokenizer, texts, tmp_path: Path):
    """FP4 with double quantisation, and int8 with outlier columns."""
    bnb = bitsandbytes()
    for build in (
        lambda: bnb.nn.Linear4bit(128, 128, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="fp4"),
        lambda: bnb.nn.Linear8bitLt(128, 128, has_fp16_weights=False, threshold=2.0),
    ):
        model = make("bert", "full").bfloat16()
        linear = build()
        linear.load_state_dict(model.bert.pooler.dense.state_dict(), strict=False)
        linear.bias.data = linear.bias.data.bfloat16()
        model.bert.pooler.dense = linear.to("cpu")
        model.requires_grad_(False)
        precision = "int4" if isinstance(linear, bnb.nn.Linear4bit) else "int8"
        folder = write(model, tokenizer, "full", precision, tmp_path / precision)
        loaded, _ = nasopt.load(folder)
        assert type(loaded.bert.pooler.dense) is type(linear)
        assert type(loaded.bert.encoder.layer[0].output.dense) is torch.nn.Linear
        with torch.inference_mode():
            assert torch.equal(loaded(**texts).logits, model(**texts).logits)


def test_a_model_that_reads_back_differently_is_not_exported(tokenizer, tmp_path: Path, monkeypatch):
    def damaged(tensors, path, metadata):
        name = "classifier.bias"
        save_file({**tensors, name: tensors[name] + 0.5}, path, metadata)

    monkeypatch.setattr(export, "save_file", damaged)
    for precision in ("fp32", "int8"):
        with pytest.raises(ExportError, match=r"outputs that differ by 0\.5"):
            write(quantize(make("bert", "pruned"), precision, "cpu"), tokenizer, "pruned", precision, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_finite_outputs_is_not_exported(tokenizer, tmp_path: Path):
    model = make("bert", "full")
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        write(model, tokenizer, "full", "fp32", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_hold_something_are_refused_unless_forced(tokenizer, texts, tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    check_target(folder, force=False)
    write(make("bert", "pruned"), tokenizer, "pruned", "fp32", folder)
    (folder / "notes.txt").write_text("mine")
    other = make("bert", "fewer layers")
    with pytest.raises(ExportError, match="not empty"):
        write(other, tokenizer, "fewer layers", "fp32", folder)
    write(other, tokenizer, "fewer layers", "fp32", folder, force=True)
    assert (folder / "notes.txt").read_text() == "mine"
    with torch.inference_mode():
        assert torch.equal(nasopt.load(folder)[0](**texts).logits, other(**texts).logits)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


KILLED = """
import sys, time
from pathlib import Path
from nasopt.export.folder import new_folder
with new_folder(Path(sys.argv[1]), False) as partial:
    (partial / "model.safetensors").write_bytes(b"half")
    time.sleep(60)
"""


def test_what_a_killed_export_left_goes_with_the_next_one(tokenizer, tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "out")]) as process:
        while not list(tmp_path.glob("*/model.safetensors")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    (tmp_path / ".tmp-notes").mkdir()  # the user's own
    write(make("bert", "full"), tokenizer, "full", "fp32", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".tmp-notes"}


def test_all_files_may_be_read_by_the_same_people(tokenizer, tmp_path: Path):
    folder = write(make("bert", "full"), tokenizer, "full", "fp32", tmp_path / "out")
    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    assert {file.name: oct(file.stat().st_mode) for file in folder.iterdir()} == dict.fromkeys(FILES, oct(expected))


def test_places_that_cannot_be_written_are_told(tokenizer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="is a file"):
        check_target(tmp_path / "file", force=True)
    with pytest.raises(ExportError, match="cannot be written"):
        write(make("bert", "full"), tokenizer, "full", "fp32", tmp_path / "file" / "out")


WITHOUT_NASOPT = """
import sys
import time
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nasopt":
            raise ModuleNotFoundError("nasopt is not installed here")

sys.meta_path.insert(0, Blocked())
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder = Path(sys.argv[1])
expected = load_file(folder / "expected.safetensors")
for name in expected:
    model = AutoModelForSequenceClassification.from_pretrained(folder / name, trust_remote_code=True).eval()
    again = folder / f"{name}-again"
    model.save_pretrained(again, save_original_format=False)
    tokenizer = AutoTokenizer.from_pretrained(folder / name, trust_remote_code=True)
    texts = tokenizer(["the film was good", "bad"], padding=True, return_tensors="pt", return_token_type_ids=False)
    reloaded = AutoModelForSequenceClassification.from_pretrained(again, trust_remote_code=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(**texts).logits, expected[name]), name
        assert torch.equal(reloaded(**texts).logits, expected[name]), name
    classify = pipeline("text-classification", str(folder / name), trust_remote_code=True)
    assert classify("a good film")[0]["label"] in ("negative", "positive")
assert "nasopt" not in sys.modules
print("done")
"""


def test_exports_load_where_nasopt_is_not_installed(tokenizer, texts, tmp_path: Path):
    expected = {}
    for name, family, shape, precision in (
        ("one", "bert", "pruned", "fp32"),
        ("two", "bert", "empty blocks", "int4"),
        ("three", "distilbert", "empty blocks", "int8"),
        ("four", "bert", "fewer layers", "int4"),
        ("five", "mpnet", "pruned", "fp32"),
        ("seven", "deberta-v2", "pruned", "int4"),
        ("six", "modernbert", "empty blocks", "int8"),
    ):
        model = quantize(make(family, shape), precision, "cpu")
        write(model, tokenizer, shape, precision, tmp_path / name)
        with torch.inference_mode():
            expected[name] = model(**texts).logits
    for chain, precision in (("chain", "fp32"), ("low rank", "int8"), ("bag", "bf16")):
        model = quantize(make_student(chain), precision, "cpu")
        export_hf(model, tokenizer, CHAINS[chain].with_precision(precision), tmp_path / chain, card="")
        with torch.inference_mode():
            expected[chain] = model(**texts).logits
    save_file(expected, tmp_path / "expected.safetensors")
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_NASOPT)
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(tmp_path)],
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
