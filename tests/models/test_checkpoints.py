"""Models as they lie on disks: each works, or is refused in one line before a study is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FILLERS, WORDS, word_tokenizer, write_sentiment_csv
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from nasopt.config.task import TaskConfig
from nasopt.errors import NasoptError
from nasopt.models.sentence_modules import SentenceModules, sentence_files
from nasopt.tasks.classification import TextClassification

SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 42,
}
LABELS: dict[str, Any] = {"id2label": {0: "negative", 1: "positive"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentiment")
    write_sentiment_csv(folder, {"train": 8, "validation": 8})
    return folder


def save(folder: Path, model: PreTrainedModel, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    word_tokenizer().save_pretrained(folder)
    return folder


def classifier(**settings: Any) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**{**SIZES, **LABELS, **settings}))


def encoder(**settings: Any) -> PreTrainedModel:
    return BertModel(BertConfig(**SIZES, **settings))


def open_model(model: Path, data: Path, **settings: Any) -> tuple[TextClassification, PreTrainedModel]:
    """What `create` does with a model: the task, and the model with its weights."""
    dataset = {"path": str(data), "text": ["text"], "label": "label"}
    config = {"model": str(model), "metric": "accuracy", "dataset": dataset, "max_length": 512, **settings}
    task = TextClassification(TaskConfig.model_validate(config))
    return task, task.load_model()


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def sharded(folder: Path) -> None:
    save(folder, classifier(), max_shard_size="10KB")
    assert not (folder / "model.safetensors").exists()


def reduced(dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda folder: [save(folder, classifier().to(dtype)), None][1]


def other_padding(folder: Path) -> None:
    """A pad token that is not the first one."""
    save(folder, classifier(pad_token_id=4))
    edit(folder / "tokenizer_config.json", pad_token="[MASK]")


def string_keys(folder: Path) -> None:
    save(folder, classifier())
    edit(folder / "config.json", id2label={"1": "positive", "0": "negative"}, label2id=None)


def single_label(folder: Path) -> None:
    save(folder, classifier(problem_type="single_label_classification"))


def tied(folder: Path) -> None:
    """An encoder from masked-language modelling, whose output layer shares the word embeddings."""
    save(folder, BertForMaskedLM(BertConfig(**SIZES, tie_word_embeddings=True)))


def duplicated(folder: Path) -> None:
    """Shared weights that were written once for each name."""
    tied(folder)
    weights = load_file(folder / "model.safetensors")
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_pooler(folder: Path) -> None:
    save(folder, encoder())
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def sentence_folder(folder: Path) -> None:
    save(folder, encoder())
    for path, text in sentence_files(SentenceModules("cls", normalize=True, max_length=12), 16).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)


def legacy_vocabulary(folder: Path) -> None:
    """Nothing of a tokenizer but vocab.txt."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *WORDS]
    classifier().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


def cased_vocabulary(folder: Path) -> None:
    """A vocabulary with case, and a configuration that says so."""
    legacy_vocabulary(folder)
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("film", "Film"))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')


WORKS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "sharded": (sharded, False),
    "fp16": (reduced(torch.float16), False),
    "bf16": (reduced(torch.bfloat16), False),
    "pad token": (other_padding, False),
    "string keys": (string_keys, False),
    "problem type": (single_label, False),
    "tied": (tied, True),
    "shared and written twice": (duplicated, True),
    "with a pooler": (lambda folder: [save(folder, encoder()), None][1], True),
    "without a pooler": (without_pooler, True),
    "sentence-transformers": (sentence_folder, True),
    "vocab.txt": (legacy_vocabulary, False),
    "cased": (cased_vocabulary, False),
}
"""How a model lies there, and whether it needs a new head."""


@pytest.mark.parametrize("case", WORKS)
def test_it_works(data: Path, tmp_path: Path, case: str) -> None:
    write, new_head = WORKS[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write(tmp_path)
        task, model = open_model(tmp_path, data, new_head=new_head)
    split = task.encode(tmp_path / "data" if (tmp_path / "data").mkdir() is None else tmp_path)["validation"]
    batch = split.batch(torch.arange(8))
    pad = task.tokenizer.pad_token_id
    assert bool((batch.inputs["input_ids"][batch.attention_mask == 0] == pad).all())
    outputs = task.run(model.eval(), batch)[0].logits
    alone = torch.cat([task.run(model, split.batch(torch.tensor([row])))[0].logits for row in range(8)])
    torch.testing.assert_close(outputs, alone, atol=1e-5, rtol=1e-4)  # padding changes nothing
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_pad_token_may_have_any_number(data: Path, tmp_path: Path) -> None:
    other_padding(tmp_path)
    assert open_model(tmp_path, data)[0].tokenizer.pad_token_id == 4


def test_case_is_kept_where_the_tokenizer_says_so(data: Path, tmp_path: Path) -> None:
    cased_vocabulary(tmp_path)
    tokenizer = open_model(tmp_path, data)[0].tokenizer
    assert tokenizer("Film")["input_ids"] == [2, 6, 3]
    assert tokenizer("film")["input_ids"] == [2, 1, 3]


@pytest.mark.parametrize("max_length", [40, 42, 512])
def test_roberta_has_two_positions_fewer_than_its_table(data: Path, tmp_path: Path, max_length: int) -> None:
    save(tmp_path / "model", RobertaModel(RobertaConfig(**SIZES, pad_token_id=1)))
    task, model = open_model(tmp_path / "model", data, new_head=True, max_length=max_length)
    assert task.max_positions == 40
    (tmp_path / "long").mkdir()
    for split in ("train", "validation"):
        rows = "".join(f"{' '.join(['good'] * 60)},{label}\n" for label in ("negative", "positive"))
        (tmp_path / "long" / f"{split}.csv").write_text(f"text,label\n{rows}")
    task, model = open_model(tmp_path / "model", tmp_path / "long", new_head=True, max_length=max_length)
    (batch,) = task.encode(tmp_path)["validation"].batch(torch.arange(2)).sides
    assert batch.attention_mask.shape == (2, 40)
    assert bool(task.run(model, batch)[0].logits.isfinite().all())


def pickled(folder: Path) -> None:
    save(folder, classifier())
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_padding(folder: Path) -> None:
    save(folder, classifier())
    edit(folder / "tokenizer_config.json", pad_token=None)


def added_tokens(folder: Path) -> None:
    classifier().save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["cinema", "plots"])
    tokenizer.save_pretrained(folder)


def gaps(folder: Path) -> None:
    save(folder, classifier())
    edit(folder / "config.json", id2label={"0": "negative", "2": "positive"}, label2id=None)


def words_for_keys(folder: Path) -> None:
    save(folder, classifier())
    edit(folder / "config.json", id2label={"negative": 0, "positive": 1}, label2id=None)


def several_labels(folder: Path) -> None:
    save(folder, classifier(problem_type="multi_label_classification"))


def adapter_beside(folder: Path) -> None:
    save(folder, classifier())
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "somebody/model"}')


def adapter_alone(folder: Path) -> None:
    """A folder as peft writes it: there is no configuration of a model."""
    adapter_beside(folder)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def old_sentence_folder(folder: Path) -> None:
    save(folder / "0_Transformer", encoder())
    kind = "sentence_transformers.models.Transformer"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_Transformer", "type": kind}]))


def cased_by_accident(folder: Path) -> None:
    """A vocabulary with case, and nothing that says so: transformers would read it in lower case."""
    legacy_vocabulary(folder)
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("film", "Film"))


def lacks_a_shard(folder: Path) -> None:
    sharded(folder)
    next(folder.glob("model-00002*.safetensors")).unlink()


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickled": (pickled, r"its weights are pickled .* convert them in its folder with: python -c "),
    "no pad token": (no_padding, r"has no pad token; set one"),
    "added tokens": (added_tokens, r"has 25 tokens, but the model has embeddings of 23: were tokens added"),
    "gaps": (gaps, r"id2label has no class 1"),
    "words for keys": (words_for_keys, r"id2label"),
    "several labels": (several_labels, r"several labels|multi_label"),
    "adapter beside": (adapter_beside, r"has an adapter .*merge_and_unload"),
    "adapter alone": (adapter_alone, r"has an adapter .*merge_and_unload"),
    "old sentence-transformers": (old_sentence_folder, r"its encoder lies in 0_Transformer"),
    "cased by accident": (cased_by_accident, r"vocab\.txt .*do_lower_case"),
    "a shard is missing": (lacks_a_shard, r"model-00002"),
    "shared layers": (lambda folder: [save(folder, AlbertModel(AlbertConfig(**SIZES))), None][1], r"'albert'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line(data: Path, tmp_path: Path, case: str) -> None:
    write, reason = REFUSED[case]
    write(tmp_path)
    with pytest.raises(NasoptError, match=reason) as caught:
        open_model(tmp_path, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["gaps", "several labels"])
def test_a_new_head_needs_nothing_of_the_old_one(data: Path, tmp_path: Path, case: str) -> None:
    REFUSED[case][0](tmp_path)
    _, model = open_model(tmp_path, data, new_head=True)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.problem_type == "single_label_classification"
