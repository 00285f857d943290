"""Exported sentence encoders in sentence-transformers: the vectors are those that were evaluated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS, write_collection
from safetensors.torch import save

from nasopt.architecture.base import Precision
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.task import TaskConfig
from nasopt.errors import ExportError
from nasopt.export.folder import export_hf
from nasopt.models.loading import load_headless, load_tokenizer
from nasopt.models.quantization import quantize
from nasopt.models.surgery import cut
from nasopt.tasks.retrieval import RetrievalSplit, SentenceRetrieval
from nasopt.tasks.similarity import SentenceSimilarity

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
TEXTS = ["good film", " ".join([*WORDS, *FILLERS] * 3), "a", "bad plot, very sad"]
FULL = Architecture((KeptUnits((0, 1, 2, 3), tuple(range(128))),) * 3)
IRREGULAR = Architecture((KeptUnits((0, 2), tuple(range(64))), None, KeptUnits((), tuple(range(128)))))
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 1e-2, "int4": 1e-2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("first,second\ngood,it\nsad,film\n")
    return folder


def export(
    model: Path,
    pairs: Path,
    to: Path,
    architecture: Architecture = FULL,
    precision: Precision = "fp32",
    dimension: int | None = None,
    **keys: Any,
) -> np.ndarray:
    """Exports a cut model, and returns the vectors that a study evaluates, (texts, hidden)."""
    dataset = {"path": str(pairs), "text": ["first", "second"]}
    config = {"type": "sentence-similarity", "model": str(model), "metric": "retrieval", "dataset": dataset, **keys}
    task = SentenceSimilarity(TaskConfig.model_validate(config))
    artifact = quantize(cut(task.load_model(), architecture), precision, CPU)
    kept, task = architecture.with_precision(precision), task if dimension is None else task.cut_to(dimension)
    export_hf(artifact, task.tokenizer, kept, to, card="", force=True, beside=task.folder_files, dimension=dimension)
    return task.text_encoder(artifact.eval(), CPU).sentences(TEXTS)


def encoded(folder: Path, **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", **options).encode(TEXTS, convert_to_numpy=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("architecture", [FULL, IRREGULAR], ids=["full", "irregular"])
def test_the_vectors_are_those_that_were_evaluated(
    tiny_bert: Path, pairs: Path, tmp_path: Path, architecture: Architecture, precision: Precision
) -> None:
    keys = {"max_length": 12, "similarity": {"prefix": "it "}}
    expected = export(tiny_bert, pairs, tmp_path / "out", architecture, precision, **keys)
    found = encoded(tmp_path / "out")
    assert np.abs(found.astype(np.float32) - expected).max() <= TOLERANCE[precision]
    assert not np.allclose(found[0], found[3], atol=1e-2)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_cut_vectors_are_those_that_were_evaluated(
    tiny_bert: Path, pairs: Path, tmp_path: Path, precision: Precision, normalize: bool
) -> None:
    keys = {"similarity": {"prefix": "it ", "normalize": normalize}}
    expected = export(tiny_bert, pairs, tmp_path / "out", IRREGULAR, precision, 12, **keys)
    found = encoded(tmp_path / "out").astype(np.float32)
    assert found.shape == expected.shape == (len(TEXTS), 12)
    assert np.abs(found - expected).max() <= TOLERANCE[precision] * (1 if normalize else 10)
    lengths = np.linalg.norm(found, axis=1)
    assert np.allclose(lengths, 1, atol=1e-2) == normalize
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert settings["truncate_dim"] == 12
    whole = export(tiny_bert, pairs, tmp_path / "out", IRREGULAR, precision, **keys)  # nothing of the cut one stays
    assert np.abs(encoded(tmp_path / "out").astype(np.float32) - whole).max() <= TOLERANCE[precision] * 10


def test_files_that_cut_otherwise_are_not_written(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    dataset = {"path": str(pairs), "text": ["first", "second"]}
    config = {"type": "sentence-similarity", "model": str(tiny_bert), "metric": "retrieval", "dataset": dataset}
    task = SentenceSimilarity(TaskConfig.model_validate(config)).cut_to(8)
    wrong = {**task.folder_files, "2_Dense/model.safetensors": save({"linear.weight": torch.eye(8, 64).flip(0)})}
    model = task.load_model()
    with pytest.raises(ExportError, match="read back gives outputs that differ"):
        export_hf(model, task.tokenizer, FULL, tmp_path / "out", card="", beside=wrong, dimension=8)
    assert not (tmp_path / "out").exists()


def test_a_study_on_a_cut_folder_says_what_it_does_not_keep(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    export(tiny_bert, pairs, tmp_path / "cut", dimension=8, similarity={"normalize": False})
    dataset = {"path": str(pairs), "text": ["first", "second"]}
    config = {"type": "sentence-similarity", "metric": "retrieval", "dataset": dataset}
    task = SentenceSimilarity(TaskConfig.model_validate({**config, "model": str(tmp_path / "cut")}))
    assert any("cut vectors to 8 entries, and a study's are whole" in remark for remark in task.remarks)


@pytest.mark.parametrize("similarity", [{"pooling": "cls"}, {"normalize": False}, {"prefix": ""}])
def test_every_setting_reaches_the_folder(
    tiny_bert: Path, pairs: Path, tmp_path: Path, similarity: dict[str, Any]
) -> None:
    expected = export(tiny_bert, pairs, tmp_path / "out", similarity=similarity, max_length=64)
    np.testing.assert_allclose(encoded(tmp_path / "out"), expected, atol=1e-5)
    again = export(tmp_path / "out", pairs, tmp_path / "again")  # a study on that folder need not be told
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_a_folder_that_sentence_transformers_wrote_is_read_as_it_reads_it(
    tiny_bert: Path, pairs: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder = Transformer(str(tiny_bert), max_seq_length=10)
    prompts = {"query": "was ", "document": "it "}
    model = SentenceTransformer(modules=[encoder, Pooling(64, "cls")], prompts=prompts, default_prompt_name="query")
    model.save_pretrained(str(tmp_path / "theirs"))
    expected = model.encode(TEXTS)
    np.testing.assert_allclose(export(tmp_path / "theirs", pairs, tmp_path / "ours"), expected, atol=1e-5)
    np.testing.assert_allclose(encoded(tmp_path / "ours"), expected, atol=1e-5)
    settings = json.loads((tmp_path / "ours" / "config_sentence_transformers.json").read_text())
    assert (settings["prompts"], settings["default_prompt_name"]) == (prompts, "query")


def test_queries_and_passages_have_the_vectors_that_were_evaluated(
    tiny_bert: Path, pairs: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    judged = [(str(row), str(row), 1) for row in range(len(TEXTS))]
    passages = {str(row): ("", text) for row, text in enumerate(TEXTS)}
    write_collection(tmp_path / "beir", passages, dict(zip(passages, TEXTS, strict=True)), {"validation": judged})
    dataset = {"path": str(pairs), "text": ["first", "second"]}
    retrieval = {"path": str(tmp_path / "beir"), "query_prefix": "was ", "passage_prefix": ""}
    config = {"type": "sentence-similarity", "model": str(tiny_bert), "metric": "ndcg@10", "dataset": dataset}
    task = SentenceRetrieval(
        TaskConfig.model_validate({**config, "similarity": {"prefix": "it "}, "retrieval": retrieval})
    )
    model, folder = cut(task.load_model(), IRREGULAR), tmp_path / "out"
    export_hf(model, task.tokenizer, IRREGULAR, folder, card="", force=True, beside=task.folder_files)
    split, encoder = task.encode(tmp_path)["validation"], task.text_encoder(model.eval(), CPU)
    assert isinstance(split, RetrievalSplit)

    theirs = SentenceTransformer(str(folder), device="cpu")

    np.testing.assert_allclose(theirs.encode_query(TEXTS), encoder.vectors(split.first), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(TEXTS), encoder.vectors(split.passages), atol=1e-5)
    np.testing.assert_allclose(theirs.encode(TEXTS), encoder.sentences(TEXTS), atol=1e-5)
    assert not np.allclose(theirs.encode_query(TEXTS), theirs.encode_document(TEXTS), atol=1e-2)
    whole, full = tmp_path / "full", task.load_model()
    export_hf(full, task.tokenizer, FULL, whole, card="", force=True, beside=task.folder_files)
    document = {**config, "model": str(whole), "retrieval": {"path": str(tmp_path / "beir")}}
    again = SentenceRetrieval(TaskConfig.model_validate(document))  # a study on that folder need not be told
    assert again.prefixes == ("was ", "")


@pytest.mark.slow
def test_irregular_layers_need_trust_where_nasopt_is_not_imported(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    expected = export(tiny_bert, pairs, tmp_path / "out", IRREGULAR)
    code = (
        "import sys; from sentence_transformers import SentenceTransformer; import numpy as np\n"
        "try:\n    SentenceTransformer(sys.argv[1], device='cpu')\n"
        "except ValueError as error:\n    assert 'trust_remote_code' in str(error)\n"
        "else:\n    raise AssertionError('it loads without trust')\n"
        "model = SentenceTransformer(sys.argv[1], device='cpu', trust_remote_code=True)\n"
        "assert 'nasopt' not in sys.modules\n"
        "np.save(sys.argv[2], model.encode([sys.argv[3]]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "out", tmp_path / "found.npy", TEXTS[0]], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy")[0], expected[0], atol=1e-5)


def test_files_of_an_earlier_export_do_not_stay(tiny_bert: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export(tiny_bert, pairs, folder, similarity={"pooling": "cls"})
    expected = export(tiny_bert, pairs, folder, similarity={"normalize": False})
    np.testing.assert_allclose(encoded(folder), expected, atol=1e-5)
    model, tokenizer = load_headless(str(tiny_bert)), load_tokenizer(str(tiny_bert), None, False)
    export_hf(model, tokenizer, FULL, folder, card="", force=True)  # of another task
    assert not (folder / "modules.json").exists()
