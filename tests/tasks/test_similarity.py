"""Sentence similarity with a tiny BERT: data, training, the three metrics, and errors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS
from scipy import stats
from transformers import AutoModel, AutoTokenizer

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.study import TrainingConfig
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.models.surgery import cut
from nasopt.numerics.resampling import resample_weights
from nasopt.tasks.batches import PairedSplit
from nasopt.tasks.similarity import SentenceSimilarity
from nasopt.tasks.similarity_scores import distinct_texts, pair_correlation, retrieval_accuracy
from nasopt.training.loop import train

CPU = torch.device("cpu")
SHARED = Path(__file__).resolve().parents[3] / "shared"
REFERENCE = {
    "STS": 0.823, "PI": 0.696, "NLI": 0.439, "SA": 0.764, "TI": 0.939, "II": 0.756, "IC": 0.702, "ICX": 0.653,
}  # fmt: skip
"""Expected scores from METHODS.md section 4, by the benchmark's own code."""


def sentence(generator: random.Random, words: list[str]) -> str:
    return " ".join(generator.choices(words, k=generator.randint(2, 6)))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two "languages" of eight words each, translated word by word; scores say how many words were left right."""
    folder = tmp_path_factory.mktemp("pairs")
    translation = dict(zip(WORDS, FILLERS, strict=False))
    generator = random.Random(0)
    for split, size in (("train", 240), ("validation", 40)):
        rows = ["first,second,score"]
        for _ in range(size):
            words = sentence(generator, list(WORDS)).split()
            rows.append(f"{' '.join(words)},{' '.join(translation[word] for word in words)},{generator.random():.3f}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def open_task(model: Path, data: Path, metric: str = "retrieval", **settings: Any) -> SentenceSimilarity:
    dataset = {"path": str(data), "text": ["first", "second"], "label": "score"}
    similarity = {"prefix": "it ", **settings}
    config = {"type": "sentence-similarity", "model": str(model), "metric": metric, "dataset": dataset}
    return SentenceSimilarity(TaskConfig.model_validate({**config, "max_length": 16, "similarity": similarity}))


def vectors_one_by_one(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors straight from transformers."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        means = [
            model(**tokenizer("it " + text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts
        ]
    vectors = torch.stack(means).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def columns(data: Path, split: str) -> list[list[str]]:
    rows = [row.split(",") for row in (data / f"{split}.csv").read_text().splitlines()[1:]]
    return [list(column) for column in zip(*rows, strict=True)]


def test_spearmanr_is_that_of_cosines_and_scores(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, pairs, "spearmanr")
    first, second, scores = columns(pairs, "validation")
    cosines = (vectors_one_by_one(tiny_bert, first) * vectors_one_by_one(tiny_bert, second)).sum(axis=1)

    evaluation = task.evaluate(task.load_model(), task.encode(tmp_path)["validation"], CPU)

    assert evaluation.quality == pytest.approx(stats.spearmanr(cosines, list(map(float, scores))).statistic, abs=1e-3)
    assert evaluation.outputs is None
    assert evaluation.replicates is not None
    assert evaluation.replicates[0] == evaluation.quality
    assert 0.05 < evaluation.replicates[1:].std() < 0.3  # about 1 / sqrt(40)


def test_retrieval_is_the_share_of_translations_that_are_nearest(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, pairs)
    first, second, _ = columns(pairs, "validation")
    cosines = vectors_one_by_one(tiny_bert, first) @ vectors_one_by_one(tiny_bert, second).T
    there = [second[row.argmax()] == text for row, text in zip(cosines, second, strict=True)]
    back = [first[row.argmax()] == text for row, text in zip(cosines.T, first, strict=True)]

    evaluation = task.evaluate(task.load_model(), task.encode(tmp_path)["validation"], CPU)

    assert evaluation.quality == pytest.approx(np.mean(there + back))


@pytest.mark.integration
def test_training_on_pairs_teaches_translation(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    task = open_task(tiny_bert, pairs)
    splits, model = task.encode(tmp_path), task.load_model()
    before = task.evaluate(model, splits["validation"], CPU)
    settings = TrainingConfig(epochs=6, batch_size=16, learning_rate=2e-3)

    train(model, splits["train"], task.training_loss, settings, device=CPU, seed=0)

    after = task.evaluate(model, splits["validation"], CPU)
    assert before.quality < 0.3
    assert after.quality > before.quality + 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cut_models_are_evaluated_in_their_own_precision(
    tiny_bert: Path, pairs: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    task = open_task(tiny_bert, pairs, pooling="cls")
    layers = (KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((), tuple(range(128))))
    architecture = Architecture(layers)
    model = cut(task.load_model(), architecture).to(dtype)

    evaluation = task.evaluate(model, task.encode(tmp_path)["validation"], CPU)

    assert 0 <= evaluation.quality <= 1


def test_there_is_no_pooler(tiny_bert: Path, pairs: Path) -> None:
    task = open_task(tiny_bert, pairs)

    model, blank = task.load_model(), task.blank_model()

    assert not any("pooler" in name for name in model.state_dict())
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in blank.state_dict().items()
    }
    assert next(blank.parameters()).device.type == "meta"


def test_encodechka_is_the_mean_of_its_tasks_and_says_each(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    first, second, scores = columns(pairs, "train")
    classes = ["1" if float(score) > 0.5 else "-1" for score in scores]
    targets = {"STS": scores, "PI": classes}
    headers = {"STS": "sentence1,sentence2,similarity_score", "PI": "text_1,text_2,class"}
    for (task_name, target), file in zip(targets.items(), ("stsb_dev.csv", "para_gold.csv"), strict=True):
        rows = map(",".join, zip(first, second, target, strict=True))
        (tmp_path / file).write_text("\n".join([headers[task_name], *rows]) + "\n")
    task = open_task(tiny_bert, pairs, "encodechka", encodechka=str(tmp_path), encodechka_tasks=["STS", "PI"])
    cosines = (vectors_one_by_one(tiny_bert, first) * vectors_one_by_one(tiny_bert, second)).sum(axis=1)
    expected = {name: stats.spearmanr(cosines, list(map(float, target))).statistic for name, target in targets.items()}

    evaluation = task.evaluate(task.load_model(), task.encode(tmp_path)["validation"], CPU)

    assert evaluation.quality == pytest.approx(np.mean(list(expected.values())), abs=1e-3)
    assert evaluation.details == {name: pytest.approx(score, abs=1e-3) for name, score in expected.items()}
    assert evaluation.replicates is not None
    assert evaluation.replicates.shape == (301,)


def test_a_missing_file_of_encodechka_is_told_at_once(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"para_gold\.csv.*avidale/encodechka"):
        open_task(tiny_bert, pairs, "encodechka", encodechka=str(tmp_path), encodechka_tasks=["PI"])


def test_encodechka_needs_a_folder(tiny_bert: Path, pairs: Path) -> None:
    with pytest.raises(DatasetError, match=r"task\.similarity\.encodechka: not set"):
        _ = open_task(tiny_bert, pairs).benchmark


def test_retrieval_counts_equal_texts_as_right_and_a_collapsed_model_as_guessing() -> None:
    unit = np.eye(4, dtype=np.float32)
    once = np.ones((1, 4))
    different = np.arange(4)

    # The second and third texts are the same one: its vector is found first in either place, and is right for both.
    same = unit[[0, 1, 1, 3]]
    assert retrieval_accuracy(once, same, same, np.array([0, 1, 1, 3]), np.array([0, 1, 1, 3]))[0] == 1
    assert retrieval_accuracy(once, unit[[0, 1, 2, 0]], unit, different, different)[0] == (3 / 4 + 3 / 4) / 2
    collapsed = np.ones((4, 4), dtype=np.float32) / 2
    assert retrieval_accuracy(once, collapsed, collapsed, different, different)[0] == 1 / 4


def test_resamples_weigh_the_questions() -> None:
    unit = np.eye(3, dtype=np.float32)
    weights = np.array([[1.0, 1, 1], [3.0, 0, 0], [0.0, 1, 2]])

    # By hand: the first and third of `first` find theirs; of `second`, the second one finds nothing like itself.
    found = retrieval_accuracy(weights, unit[[0, 2, 2]], unit, np.arange(3), np.arange(3))

    # From the third of `second` both later ones of `first` are as near, and the earlier one is taken: wrong.
    there, back = np.array([1, 0, 1]), np.array([1, 0, 0])
    np.testing.assert_allclose(found, weights @ ((there + back) / 2) / 3)


def test_correlation_of_pairs_in_resamples_is_that_of_repeated_pairs() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(12, 4)).astype(np.float32) for _ in range(2))
    scores, counts = rng.random(12), resample_weights(12, 1, 0)[1]

    found = pair_correlation(counts[None], first, second, scores)

    times = counts.astype(int)
    cosines = np.repeat((first * second).sum(axis=1), times)
    assert found[0] == pytest.approx(stats.spearmanr(cosines, np.repeat(scores, times)).statistic)


def test_texts_with_the_same_tokens_get_the_same_number(tiny_bert: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = "first,second\ngood film,it\nsad film,it\ngood film,the plot\n"
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text(rows)

    split = open_task(tiny_bert, data).encode(tmp_path)["validation"]

    assert isinstance(split, PairedSplit)
    assert distinct_texts(split.first).tolist() == [0, 1, 0]
    assert distinct_texts(split.second).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "metric", "reason"),
    [
        ("first,second\ngood,\nsad,it\n,it\n", "retrieval", "1 empty texts in the column `first` .*row 2"),
        ("first,other\ngood,it\n", "retrieval", "no column second"),
        ("first,second\ngood,it\n", "spearmanr", "validation split has no column `score`"),
        ("first,second,score\ngood,it,0.5\nsad,it,much\n", "spearmanr", "row"),
        ("first,second,score\ngood,it,0.5\nsad,it,0.5\n", "spearmanr", "all scores"),
    ],
)
def test_bad_pairs_are_told_where_they_are(
    tiny_bert: Path, tmp_path: Path, rows: str, metric: str, reason: str
) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(rows)

    with pytest.raises(DatasetError, match=reason):
        open_task(tiny_bert, tmp_path, metric)


def test_pairs_of_unequal_length_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text('{"first": "good", "second": "it"}\n{"first": "sad"}\n')

    with pytest.raises(DatasetError, match="1 empty texts in the column `second`"):
        open_task(tiny_bert, tmp_path)


def test_only_encoders_are_accepted(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')

    with pytest.raises(UnsupportedModelError, match="gpt2"):
        open_task(tmp_path, pairs)


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "models" / "e5-small-en-ru").is_dir(), reason="the data beside the project are not here"
)
def test_a_real_encoder_scores_as_by_the_benchmarks_own_code(tmp_path: Path) -> None:
    """The model is in bfloat16, as candidates of a search are; it takes about four minutes on one core."""
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("first,second\nгород,city\nрека,river\n")
    model = SHARED / "models" / "e5-small-en-ru"
    config = {
        "type": "sentence-similarity",
        "model": str(model),
        "metric": "encodechka",
        "max_length": 128,
        "dataset": {"path": str(tmp_path), "text": ["first", "second"]},
        "similarity": {"prefix": "query: ", "encodechka": str(SHARED / "data" / "encodechka")},
    }
    task = SentenceSimilarity(TaskConfig.model_validate(config))

    evaluation = task.evaluate(task.load_model().to(torch.bfloat16), task.encode(tmp_path)["validation"], CPU)

    assert evaluation.details == {name: pytest.approx(score, abs=0.01) for name, score in REFERENCE.items()}
    assert evaluation.quality == pytest.approx(0.721, abs=0.005)
