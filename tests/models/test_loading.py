from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from payload import malicious
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.errors import ExportError, NasoptError, UnsupportedModelError
from nasopt.models.checking import CONVERSION
from nasopt.models.loading import Head, has_head, load, load_base, load_config, load_headless, load_tokenizer

MakeModel = Callable[..., PreTrainedModel]

HEAD = Head(("no", "yes"), "single_label_classification")


@pytest.fixture
def classifier(make_model, tmp_path: Path) -> Path:
    """A folder with a two-class model in fp16."""
    make_model("bert").half().save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_base_is_loaded_in_fp32_with_its_head(classifier, make_model, capfd):
    capfd.readouterr()
    model = load_base(str(classifier), HEAD)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.classifier.weight, make_model("bert").classifier.weight.half().float())
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.problem_type == HEAD.problem_type
    assert has_head(load_config(str(classifier), None, False))
    assert capfd.readouterr().err == ""


def test_encoder_without_a_head_gets_a_new_one(tiny_bert: Path, capfd):
    assert not has_head(load_config(str(tiny_bert), None, False))
    model = load_base(str(tiny_bert), Head(("a", "b", "c"), HEAD.problem_type), new_head=True)
    assert model.classifier.weight.shape == (3, 64)
    assert float(model.classifier.weight.detach().std()) == pytest.approx(0.02, rel=0.5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"])
def test_new_head_replaces_one_of_any_size_and_follows_the_seed(make_model, tmp_path: Path, family):
    old = make_model(family)
    old.save_pretrained(tmp_path)
    torch.manual_seed(3)
    one = load_base(str(tmp_path), HEAD, new_head=True)
    torch.manual_seed(3)
    two = load_base(str(tmp_path), HEAD, new_head=True)
    for (name, new), again, before in zip(
        one.named_parameters(), two.parameters(), old.state_dict().values(), strict=True
    ):
        assert torch.equal(new, again)
        assert torch.equal(new, before) is name.startswith(one.base_model_prefix), name
    three = load_base(str(tmp_path), Head(("a", "b", "c"), HEAD.problem_type), new_head=True)
    assert three.config.num_labels == 3
    assert three(torch.tensor([[5, 6]])).logits.shape == (1, 3)


def test_missing_weights_are_not_made_up(classifier, make_model, tmp_path: Path):
    weights = load_file(classifier / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    del weights[name]
    save_file(weights, classifier / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=rf"lacks 1 of the weights .*{name}"):
        load_base(str(classifier), HEAD)
    make_model("bert").bert.save_pretrained(tmp_path / "headless")
    with pytest.raises(UnsupportedModelError, match="lacks 2 of the weights"):
        load_base(str(tmp_path / "headless"), HEAD)


def large_enough(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer of as many tokens as `make_model` has embeddings of."""
    tokenizer = load_tokenizer(str(folder), None, False)
    tokenizer.add_tokens([f"word{number}" for number in range(100 - len(tokenizer))])
    return tokenizer


def change(folder: Path, **changes: Tensor) -> None:
    """Adds weights to a checkpoint."""
    file = folder / "model.safetensors"
    save_file({**load_file(file), **changes}, file, {"format": "pt"})


READERS: dict[str, Callable[[str], object]] = {
    "base": lambda folder: load_base(folder, HEAD),
    "headless": load_headless,
    "load": load,
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("other", [{"hidden": 64}, {"layers": 2}, {"family": "roberta"}])
def test_weights_of_another_model_are_refused(
    classifier: Path, make_model: MakeModel, tmp_path: Path, tiny_bert: Path, read: str, other: dict[str, Any]
) -> None:
    large_enough(tiny_bert).save_pretrained(classifier)
    make_model(**{"family": "bert", **other}).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(classifier / "model.safetensors")
    with pytest.raises(NasoptError, match=r"checkpoint (is of another model|lacks \d+ of the weights)") as caught:
        READERS[read](str(classifier))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: content[:-9], lambda content: b""])
def test_damaged_weights_are_one_line(classifier: Path, tiny_bert: Path, read: str, damage: Callable[[bytes], bytes]):
    large_enough(tiny_bert).save_pretrained(classifier)
    file = classifier / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(NasoptError, match=r"^model '.*classifier': ") as caught:
        READERS[read](str(classifier))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("weight", ["attention.self.distance_embedding", "output.adapters.one.down"])
def test_weights_of_the_encoder_that_have_no_place_are_named(
    classifier: Path, tiny_bert: Path, tmp_path: Path, read: str, weight: str
) -> None:
    large_enough(tiny_bert).save_pretrained(classifier)
    shutil.copytree(tiny_bert, tmp_path / "encoder")
    name = f"encoder.layer.1.{weight}.weight"
    change(classifier, **{f"bert.{name}": torch.zeros(2, 2)})
    change(tmp_path / "encoder", **{name: torch.zeros(2, 2)})
    with pytest.raises(NasoptError, match=rf"1 weights of its encoder have no place .*, bert\.{name} among them"):
        READERS[read](str(classifier))
    reader = READERS["headless"] if read != "load" else load
    with pytest.raises(NasoptError, match=rf"have no place .*, {name} among them"):
        reader(str(tmp_path / "encoder"))
    with pytest.raises(UnsupportedModelError, match=rf"have no place .*, {name} among them"):
        load_base(str(tmp_path / "encoder"), HEAD, new_head=True)


def test_other_heads_poolers_and_constants_may_be_left_out(classifier: Path) -> None:
    zeros = torch.zeros(2, 2)
    change(
        classifier,
        **{"cls.predictions.bias": zeros, "bert.embeddings.position_ids": zeros + 1, "lm_head.dense.weight": zeros + 2},
    )
    whole = load_base(str(classifier), HEAD)
    encoder = load_headless(str(classifier))  # which has no place for the head
    assert torch.equal(whole.get_input_embeddings().weight, encoder.get_input_embeddings().weight)


@pytest.mark.integration
def test_pickled_weights_are_refused_and_the_line_that_converts_them_works(classifier: Path, tiny_bert: Path) -> None:
    large_enough(tiny_bert).save_pretrained(classifier)
    file = classifier / "model.safetensors"
    weights = load_file(file)
    weights["again"] = weights["classifier.bias"]  # shared, as tied embeddings are
    torch.save(weights, classifier / "pytorch_model.bin")
    file.unlink()
    for read in READERS.values():
        with pytest.raises(NasoptError, match="reads safetensors only") as caught:
            read(str(classifier))
        assert str(caught.value).partition("with: ")[2] == CONVERSION
    subprocess.run(CONVERSION.replace("python", sys.executable, 1), shell=True, check=True, cwd=classifier)
    for read in READERS.values():
        read(str(classifier))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "both"])
def test_weights_are_never_unpickled(classifier: Path, tiny_bert: Path, read: str, name: str) -> None:
    large_enough(tiny_bert).save_pretrained(classifier)
    marker = classifier / "marker"
    content = malicious(marker)
    (classifier / "training_args.bin").write_bytes(content)
    if name == "both":
        (classifier / "pytorch_model.bin").write_bytes(content)
        READERS[read](str(classifier))  # it has safetensors, too
    else:
        (classifier / "model.safetensors").unlink()
        (classifier / name).write_bytes(content)
        with pytest.raises(NasoptError):
            READERS[read](str(classifier))
    assert not marker.exists()


def test_an_adapter_is_refused(classifier: Path) -> None:
    (classifier / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="has an adapter"):
        load_base(str(classifier), HEAD)


def test_a_folder_without_a_tokenizer_is_refused(classifier: Path, tiny_bert: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"there is no vocab\.txt and no tokenizer\.json"):
        load_tokenizer(str(classifier), None, False)
    with pytest.raises(UnsupportedModelError, match="holds no tokenizer"):
        load(classifier)
    (classifier / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfilm\n")
    assert load_tokenizer(str(classifier), None, False)("film")["input_ids"] == [2, 5, 3]


def test_the_vocabularies_of_tokenizer_and_model_are_compared(classifier: Path, tiny_bert: Path) -> None:
    load_tokenizer(str(tiny_bert), None, False).save_pretrained(classifier)
    with pytest.raises(UnsupportedModelError, match=r"has 23 tokens, .* of 100: the tokenizer is not the model's own"):
        load(classifier)
    tokenizer = large_enough(tiny_bert)
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(classifier)
    with pytest.raises(UnsupportedModelError, match=r"has 101 tokens, but .* of 100: were tokens added to it"):
        load(classifier)


def test_models_that_cannot_be_cut_are_refused(tmp_path: Path):
    GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="'gpt2'"):
        load_base(str(tmp_path), HEAD)


def test_heads_that_an_earlier_transformers_cut_are_told(tiny_bert: Path, tmp_path: Path):
    config = json.loads((tiny_bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pruned_heads": {"0": [], "1": [2]}}))
    with pytest.raises(UnsupportedModelError, match=r"heads of 1 of its layers were cut .*pruned_heads"):
        load_config(str(tmp_path), None, False)
    (tmp_path / "config.json").write_text(json.dumps(config | {"pruned_heads": {}}))
    assert load_config(str(tmp_path), None, False).model_type == "bert"


@pytest.mark.parametrize("read", [load_config, load_tokenizer])
def test_a_folder_that_does_not_exist_is_told(tmp_path: Path, read):
    with pytest.raises(UnsupportedModelError, match=r"nowhere'\: there is no such folder$"):
        read(str(tmp_path / "nowhere"), None, False)
    with pytest.raises(UnsupportedModelError, match="no such folder"):
        read("./nowhere", None, False)


def test_an_unreachable_hub_is_told(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnsupportedModelError, match=r"nobody/nothing.*cannot be reached") as caught:
        load_config("nobody/nothing", None, False)
    assert "\n" not in str(caught.value)


def test_a_models_own_code_is_not_run_and_nobody_is_asked(tmp_path: Path, monkeypatch):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "strange", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}})
    )
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asks"))
    with pytest.raises(UnsupportedModelError, match="needs its own code") as caught:
        load_config(str(tmp_path), None, False)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModelError, match="needs its own code"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_load_gives_the_stored_dtype_in_eval_mode(classifier, tiny_bert: Path):
    large_enough(tiny_bert).save_pretrained(classifier)
    model, tokenizer = load(classifier)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not model.training
    assert model(**tokenizer("a good film", return_tensors="pt")).logits.shape == (1, 2)
    encoder, _ = load(tiny_bert, "cpu")
    assert type(encoder).__name__ == "BertModel"


def test_load_says_what_is_not_there(tmp_path: Path, classifier):
    with pytest.raises(ExportError, match=r"nowhere: there is no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"no config\.json"):
        load(tmp_path)
    (classifier / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"holds no weights \(there is no model\.safetensors\)"):
        load(classifier)
    GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        load(tmp_path / "gpt2")


def test_damaged_files_are_one_line(classifier):
    (classifier / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError) as caught:
        load(classifier)
    assert "\n" not in str(caught.value)


def test_exported_types_are_known_to_the_auto_classes():
    assert type(AutoConfig.for_model("nasopt-roberta")).__name__ == "NasoptRobertaConfig"
