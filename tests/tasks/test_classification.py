"""Text classification: labels, pairs, regression, heads that are there already, the Arrow cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.study import TrainingConfig
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError
from nasopt.models.families import FAMILIES
from nasopt.models.surgery import cut
from nasopt.tasks.classification import TextClassification
from nasopt.training.loop import train
from nasopt.training.teacher import run_with_hidden

CPU = torch.device("cpu")


def write(folder: Path, rows: list[str], header: str = "text,label") -> Path:
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def open_task(model: Path, data: Path, **changes: Any) -> TextClassification:
    dataset = {"path": str(data), "text": changes.pop("text", ["text"])}
    dataset |= {key: changes.pop(key) for key in ("max_samples", "splits") if key in changes}
    return TextClassification(TaskConfig.model_validate({"model": str(model), "dataset": dataset, **changes}))


@pytest.fixture
def encoder(tiny_bert: Path, tmp_path: Path) -> Callable[[str], Path]:
    """(family) -> folder of an encoder without a head: 2 layers, 4 heads, FFN 128, hidden size 32, 64 positions.

    The tokenizer offers segments whether the model knows them or not."""

    def make(family: str) -> Path:
        names = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_size")
        sizes = dict(zip(names, (2, 4, 128, 32), strict=True)) | {"max_position_embeddings": 64, "pad_token_id": 0}
        if family == "distilbert":
            sizes["hidden_dim"] = sizes.pop("intermediate_size")
        if family == "deberta-v2":
            sizes |= {"relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 8}
        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModel.from_config(config).save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family

    return make


def with_head(tiny_bert: Path, folder: Path, classes: list[str]) -> Path:
    """The tiny encoder with a trained head of these classes."""
    task = open_task(tiny_bert, write(folder / "data", ["a film,0", "the plot,1"]))
    model = task.load_model()
    model.config.id2label, model.config.label2id = dict(enumerate(classes)), {c: i for i, c in enumerate(classes)}
    model.save_pretrained(folder / "model")
    task.tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def test_string_labels_are_kept_in_the_model(tiny_bert: Path, sentiment: Path) -> None:
    task = open_task(tiny_bert, sentiment)
    model = task.load_model()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    assert next(model.parameters()).dtype == torch.float32
    assert not task.has_head


def test_tokens_and_labels_are_those_of_the_texts(tiny_bert: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, write(tmp_path / "d", ["a great film,yes", "bad,no", "null,yes"]))
    split = task.encode(tmp_path)["train"]
    tokens = split.columns["input_ids"].tolist()
    first = task.tokenizer("a great film")["input_ids"]
    assert tokens[: len(first)] == first
    assert split.lengths.tolist() == [5, 3, 3]
    assert split.labels.tolist() == [1, 0, 1]  # no < yes; "null" is a word, not a missing value


def test_a_second_run_reads_the_arrow_cache(tiny_bert: Path, sentiment: Path, tmp_path: Path) -> None:
    open_task(tiny_bert, sentiment).encode(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {name.partition("-")[0] for name in before} == {"train", "validation"}
    open_task(tiny_bert, sentiment).encode(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    open_task(tiny_bert, sentiment, max_length=8).encode(tmp_path)
    assert len(list(tmp_path.iterdir())) > len(before)


def test_damaged_tokens_are_made_again(
    tiny_bert: Path, sentiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = open_task(tiny_bert, sentiment).encode(tmp_path)
    for damage in (lambda content: content[: len(content) // 2], flipped, lambda content: b"no Arrow file"):
        caplog.clear()
        for file in tmp_path.glob("*.arrow"):
            file.write_bytes(damage(file.read_bytes()))
        again = open_task(tiny_bert, sentiment).encode(tmp_path)
        assert {role: split.fingerprint for role, split in again.items()} == {
            role: split.fingerprint for role, split in expected.items()
        }
        assert caplog.text.count("tokenised again") == 2


def flipped(content: bytes) -> bytes:
    """One bit is another, in the middle of the tokens."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_pairs_have_two_segments(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", ["a film,the plot was sad,0", "good,bad,1"], header="a,b,label")
    split = open_task(tiny_bert, data, text=["a", "b"]).encode(tmp_path)["train"]
    batch = split.batch(torch.tensor([0]))
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1]]


RTE = ["a good film,the film was good,entailment", "a sad story,the story was great,not_entailment"] * 8
STS = ["a good film,a fine film,4.5", "a good film,the plot,0.5", "the sad story,the poor story,3.75"] * 6
TOPICS = ["the film was good,good", "the film was bad,bad", "the story and plot,neither"] * 6
TASKS: dict[str, tuple[list[str], str, list[str], str, int]] = {
    "pairs": (RTE, "a,b,label", ["a", "b"], "accuracy", 2),
    "regression of pairs": (STS, "a,b,label", ["a", "b"], "spearmanr", 1),
    "three classes": (TOPICS, "text,label", ["text"], "accuracy", 3),
}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_trains_on_every_kind_of_task(
    encoder: Callable[[str], Path], tmp_path: Path, family: str, kind: str
) -> None:
    """The model is cut and evaluated after that."""
    rows, header, columns, metric, outputs = TASKS[kind]
    task = open_task(encoder(family), write(tmp_path / "d", rows, header), text=columns, metric=metric)
    split = task.encode(tmp_path)["train"]
    assert ("token_type_ids" in split.columns) is (family in ("bert", "roberta", "electra"))
    torch.manual_seed(0)
    model = task.load_model()
    before = task.evaluate(model, split, CPU)
    assert before.outputs.shape == (len(rows), outputs)

    with torch.inference_mode():
        first = float(task.loss(torch.from_numpy(before.outputs), split.labels))
    settings = TrainingConfig(epochs=30, batch_size=16, learning_rate=1e-2)
    train(model, split, task.training_loss, settings, device=CPU, seed=0)
    after = task.evaluate(model, split, CPU)
    assert float(task.loss(torch.from_numpy(after.outputs), split.labels)) < 0.95 * first
    assert -1 <= after.quality <= 1
    cut(model, Architecture((KeptUnits((1, 3), tuple(range(64))), None)))
    assert np.isfinite(task.evaluate(model, split, CPU).outputs).all()
    logits, (*_, hidden) = run_with_hidden(model, split.batch(torch.arange(3)))
    assert logits.shape == (3, outputs)
    assert hidden.shape[2] == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_to_what_the_model_reads(
    encoder: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    task = open_task(encoder(family), write(tmp_path / "d", [f"{'good ' * 100},1", f"{'bad ' * 100},0"]))
    split = task.encode(tmp_path)["train"]
    longest = {"roberta": 63, "mpnet": 62}.get(family, 64)
    assert split.lengths.tolist() == [longest, longest]
    assert np.isfinite(task.evaluate(task.load_model(), split, CPU).outputs).all()


def test_numbers_with_fractions_mean_regression(tiny_bert: Path, tmp_path: Path) -> None:
    rows = ["good,1.0", "great film,0.75", "bad,0.25", "awful,0.0"]
    task = open_task(tiny_bert, write(tmp_path / "d", rows), metric="spearmanr")
    model = task.load_model()
    assert model.config.num_labels == 1
    split = task.encode(tmp_path)["train"]
    assert split.labels.dtype == torch.float32
    loss = task.loss(torch.tensor([[1.0], [0.0]]), torch.tensor([0.5, 1.0]))
    assert loss.item() == pytest.approx((0.25 + 1.0) / 2)
    assert task.evaluate(model, split, CPU).outputs.shape == (4, 1)
    with pytest.raises(DatasetError, match="accuracy does not fit"):
        open_task(tiny_bert, write(tmp_path / "e", rows))


def test_a_head_with_the_same_classes_is_used_whatever_their_order(
    tiny_bert: Path, sentiment: Path, tmp_path: Path
) -> None:
    task = open_task(with_head(tiny_bert, tmp_path, ["positive", "negative"]), sentiment)
    assert task.has_head
    texts = (sentiment / "train.csv").read_text().splitlines()[1:]
    labels = task.encode(tmp_path)["train"].labels.tolist()
    assert labels == [0 if line.endswith("positive") else 1 for line in texts]
    assert task.load_model().config.id2label == {0: "positive", 1: "negative"}


def test_numbers_count_the_classes_of_the_head(tiny_bert: Path, tmp_path: Path) -> None:
    model = with_head(tiny_bert, tmp_path, ["bad", "good"])
    task = open_task(model, write(tmp_path / "d", ["a,1", "the,0"]))
    assert task.encode(tmp_path)["train"].labels.tolist() == [1, 0]
    assert task.remarks[0] == "labels are the head's classes by number: 0 is bad, 1 is good"
    with pytest.raises(DatasetError, match="0, 2 are not the classes of the model's head"):
        open_task(model, write(tmp_path / "e", ["a,2", "the,0"]))
    assert not open_task(model, tmp_path / "e", new_head=True).has_head


def test_outputs_come_in_the_order_of_the_split(tiny_bert: Path, sentiment: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, sentiment)
    model, split = task.load_model(), task.encode(tmp_path)["validation"]
    found = task.evaluate(model, split, CPU)
    with torch.inference_mode():
        single = model(**split.batch(torch.tensor([7])).inputs).logits
    assert np.allclose(found.outputs[7], single.numpy(), atol=1e-5)
    assert found.quality == np.mean(found.outputs.argmax(1) == split.labels.numpy())


def test_max_samples_and_slices(tiny_bert: Path, sentiment: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, sentiment, max_samples={"train": 10}, splits={"validation": "train[:5%]"})
    splits = task.encode(tmp_path)
    assert (len(splits["train"]), len(splits["validation"])) == (10, 8)


def test_cut_texts_are_warned_of(
    tiny_bert: Path, sentiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="nasopt"):
        open_task(tiny_bert, sentiment, max_length=6).encode(tmp_path)
    assert "task.max_length: 6 tokens cut off" in caplog.text


def test_other_files_are_read_too(tiny_bert: Path, sentiment: Path, tmp_path: Path) -> None:
    import datasets

    table = datasets.load_dataset("csv", data_files=str(sentiment / "train.csv"), split="train")
    expected = table["text"]
    for suffix, save in (("jsonl", table.to_json), ("parquet", table.to_parquet)):
        folder = tmp_path / suffix
        folder.mkdir()
        for split in ("train", "validation"):
            save(str(folder / f"{split}.{suffix}"))
        task = open_task(tiny_bert, folder)
        assert task.encode(folder)["train"].total_tokens == sum(len(text.split()) + 2 for text in expected)
    datasets.DatasetDict(train=table, validation=table).save_to_disk(str(tmp_path / "saved"))
    assert len(open_task(tiny_bert, tmp_path / "saved").encode(tmp_path)["validation"]) == len(expected)


def test_class_labels_keep_their_names(tiny_bert: Path, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    table = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]}, features=features)
    datasets.DatasetDict(train=table, validation=table).save_to_disk(str(tmp_path / "saved"))
    task = open_task(tiny_bert, tmp_path / "saved")
    assert task.load_model().config.id2label == {0: "no", 1: "yes"}
    assert task.encode(tmp_path)["train"].labels.tolist() == [1, 0]


def test_the_content_hash_follows_the_files(sentiment: Path, tmp_path: Path) -> None:
    from nasopt.tasks.datasets import content_hash

    shutil.copytree(sentiment, tmp_path / "copy")
    assert content_hash(str(sentiment)) == content_hash(str(tmp_path / "copy"))
    (tmp_path / "copy" / "test.csv").write_text("text,label\n")
    assert content_hash(str(sentiment)) != content_hash(str(tmp_path / "copy"))
    assert content_hash("some/hub-id") is None


CANCER = ["a good film,cancer", *["the plot,not cancer"] * 9]


def test_f1_is_that_of_the_named_class(tiny_bert: Path, tmp_path: Path) -> None:
    """A model that finds no cancer has found nothing."""
    data = write(tmp_path / "d", CANCER)
    finds_none = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (10, 1))
    task = open_task(tiny_bert, data, metric="f1")
    labels = task.encode(tmp_path)["validation"].labels.numpy()
    assert task.quality(finds_none, labels) == 0
    assert task.quality_name == "f1 of the class `cancer`"
    assert task.remarks == ("labels are read as 2 classes: cancer, not cancer", "quality is f1 of the class `cancer`")
    assert task.settled.positive_label == "cancer"

    other = open_task(tiny_bert, data, metric="f1", positive_label="not cancer")
    assert other.quality(finds_none, labels) == pytest.approx(2 * 9 / (2 * 9 + 1))
    macro = open_task(tiny_bert, data, metric="f1_macro")
    assert macro.quality(finds_none, labels) == pytest.approx(9 / 19)
    assert (macro.quality_name, macro.settled) == ("f1_macro", macro.config)
    assert open_task(tiny_bert, data, metric="f1_micro").quality(finds_none, labels) == pytest.approx(0.9)


def test_the_class_of_f1_must_be_known_and_occur(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", ["good,a", "bad,b"])
    with pytest.raises(DatasetError, match=r"task\.positive_label: f1 of the two classes a, b"):
        open_task(tiny_bert, data, metric="f1")
    (data / "validation.csv").write_text("text,label\ngood,a\n")
    assert open_task(tiny_bert, data, metric="f1", positive_label="a").positive_class == 0
    with pytest.raises(DatasetError, match="no label of the validation split is `b`"):
        open_task(tiny_bert, data, metric="f1", positive_label="b")
    with pytest.raises(DatasetError, match="every label of the validation split is `a`"):
        open_task(tiny_bert, data, metric="matthews_correlation")
    three = write(tmp_path / "e", ["good,a", "bad,b", "the,c"])
    assert open_task(tiny_bert, three, metric="f1").quality_name == "f1"
    with pytest.raises(DatasetError, match="there are 3 classes"):
        open_task(tiny_bert, three, metric="f1", positive_label="b")


def test_whole_numbers_are_regressed_if_the_file_says_so(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", ["good,5", "the,3", "bad,1"])
    task = open_task(tiny_bert, data, metric="pearsonr", kind="regression")
    assert task.encode(tmp_path)["train"].labels.tolist() == [5.0, 3.0, 1.0]
    assert task.load_model().config.num_labels == 1
    assert task.remarks == ("labels are read as numbers (regression)",)
    with pytest.raises(DatasetError, match=r'pearsonr does not fit .* classes; .*task\.kind = "regression"'):
        open_task(tiny_bert, data, metric="pearsonr")


def test_a_text_that_is_none_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "good", "label": "a"}\n{"text": "bad", "label": "b"}\n')
    for text, kind in (("null", "empty"), ('["a", "b"]', "list-valued")):
        (tmp_path / "validation.jsonl").write_text(f'{{"text": {text}, "label": "a"}}\n')
        with pytest.raises(DatasetError, match=f"the validation split has 1 {kind} texts in the column `text`"):
            open_task(tiny_bert, tmp_path)
