from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from nasopt.architecture.cells import OPERATIONS
from nasopt.models import modeling_adabert
from nasopt.models.modeling_adabert import (
    CONVOLUTIONS,
    AdaBertConfig,
    AdaBertForSequenceClassification,
    make_operation,
    mean_over_tokens,
)

SIZES = {"vocab_size": 100, "hidden_size": 8, "num_labels": 3}
CELLS = ["conv3", "maxpool", "dilconv3", "avgpool", "conv1", "conv5"]


def make(**values) -> AdaBertForSequenceClassification:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AdaBertForSequenceClassification(AdaBertConfig(**SIZES | values))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def with_other_padding(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same texts, other tokens at padding, and four more of them."""
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
    ids[mask == 0] = 99 - ids[mask == 0]
    more = torch.full((ids.shape[0], 4), 7)
    return {"input_ids": torch.cat([ids, more], 1), "attention_mask": torch.cat([mask, torch.zeros_like(more)], 1)}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_against_numpy(name: str) -> None:
    """Each real token of each text, computed on the text without its padding."""
    torch.manual_seed(0)
    operation = make_operation(name, 6).eval()
    for parameter in operation.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(2, 7, 6)
    real = torch.ones(2, 7, 1)
    real[1, 4:] = 0
    with torch.inference_mode():
        found = operation(hidden, real).numpy()
    for text, tokens in ((0, 7), (1, 4)):
        expected = by_hand(name, operation, hidden[text, :tokens].numpy())
        np.testing.assert_allclose(found[text, :tokens], expected, rtol=1e-4, atol=1e-5)


def by_hand(name: str, operation: torch.nn.Module, hidden: np.ndarray) -> np.ndarray:
    tokens = len(hidden)
    windows = [range(max(t - 1, 0), min(t + 2, tokens)) for t in range(tokens)]
    if name == "skip":
        return hidden
    if name == "maxpool":
        return np.stack([hidden[window].max(axis=0) for window in windows])
    if name == "avgpool":
        return np.stack([hidden[window].mean(axis=0) for window in windows])
    size, dilation = CONVOLUTIONS[name]
    weight, bias, scale, shift = (parameter.detach().numpy() for parameter in operation.parameters())
    result = np.tile(bias, (tokens, 1))
    for t in range(tokens):
        for tap in range(size):
            other = t + (tap - size // 2) * dilation
            if 0 <= other < tokens:
                result[t] += weight[:, :, tap] @ hidden[other]
    result = np.maximum(result, 0)
    centred = result - result.mean(axis=1, keepdims=True)
    return centred / np.sqrt(result.var(axis=1, keepdims=True) + 1e-5) * scale + shift


@pytest.mark.parametrize("name", OPERATIONS)
def test_padding_leaks_into_no_operation(name: str) -> None:
    torch.manual_seed(0)
    operation = make_operation(name, 6).eval()
    hidden, real = torch.randn(2, 7, 6), torch.ones(2, 7, 1)
    real[1, 4:] = 0
    other = torch.where(real == 1, hidden, 1e3 * torch.randn_like(hidden))
    longer = torch.cat([other, torch.randn(2, 3, 6)], dim=1)
    with torch.inference_mode():
        expected = operation(hidden, real)
        changed = operation(other, real)
        padded = operation(longer, torch.cat([real, torch.zeros(2, 3, 1)], dim=1))[:, :7]
    at_real = real.expand_as(hidden) == 1
    assert torch.equal(changed[at_real], expected[at_real])
    assert float((padded - expected)[at_real].abs().max()) < 1e-6
    assert torch.isfinite(padded).all()


@pytest.mark.parametrize("cells", [CELLS, []])
@pytest.mark.parametrize("rank", [None, 4])
def test_padding_changes_nothing(batch, cells, rank) -> None:
    # In double precision: another length makes other kernels round otherwise.
    model = make(cells=cells, embedding_rank=rank).double()
    mask = batch["attention_mask"] == 1
    with torch.inference_mode():
        expected = model(**batch, output_hidden_states=True)
        found = model(**with_other_padding(batch), output_hidden_states=True)
    assert float((found.logits - expected.logits).abs().max()) < 1e-12
    assert len(expected.hidden_states) == len(cells) + 1
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert float((one[:, :9] - other)[mask].abs().max()) < 1e-12


def test_a_bag_of_embeddings_by_hand(batch) -> None:
    model = make()
    table = model.adabert.embeddings.norm(model.adabert.embeddings.word_embeddings.weight).detach().numpy()
    weight, bias = (parameter.detach().numpy() for parameter in model.classifier.parameters())
    with torch.inference_mode():
        logits = model(**batch).logits.numpy()
    for text, tokens in enumerate((9, 5, 2)):
        words = batch["input_ids"][text, :tokens].numpy()
        np.testing.assert_allclose(logits[text], weight @ table[words].mean(axis=0) + bias, rtol=1e-5, atol=1e-6)


def test_texts_without_tokens_are_finite() -> None:
    hidden = torch.randn(1, 3, 4)
    assert torch.equal(mean_over_tokens(hidden, torch.zeros(1, 3, 1)), torch.zeros(1, 4))
    with torch.inference_mode():
        logits = make(cells=CELLS)(torch.ones(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)).logits
    assert torch.isfinite(logits).all()


def test_the_interface_is_hugging_faces(batch) -> None:
    model = make(cells=["conv3"])
    labels = torch.tensor([0, 2, 1])
    with torch.inference_mode():
        output = model(**batch, labels=labels)
        loss, logits, states = model(**batch, labels=labels, output_hidden_states=True, return_dict=False)
        segments = model(**batch, token_type_ids=torch.ones_like(batch["input_ids"]))
    assert float(output.loss) == pytest.approx(float(torch.nn.functional.cross_entropy(output.logits, labels)))
    assert output.hidden_states is None
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert torch.equal(segments.logits, output.logits)
    assert torch.equal(model.base_model(**batch).last_hidden_state, states[-1])
    unmasked = model(batch["input_ids"]).logits
    assert torch.equal(unmasked, model(batch["input_ids"], torch.ones_like(batch["input_ids"])).logits)
    assert model.get_input_embeddings() is model.adabert.embeddings.word_embeddings


@pytest.mark.parametrize("values", [{"cells": CELLS}, {"cells": []}, {"cells": ["conv1"], "embedding_rank": 4}])
def test_saved_models_load_and_save_again(batch, tmp_path: Path, values) -> None:
    model = make(**values)
    model.save_pretrained(tmp_path / "one")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one", trust_remote_code=False)
    again.save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        assert (tmp_path / folder / "modeling_adabert.py").read_text() == Path(modeling_adabert.__file__).read_text()
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / folder, trust_remote_code=False).eval()
        with torch.inference_mode():
            assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    encoder = AutoModel.from_pretrained(tmp_path / "two", trust_remote_code=False).eval()
    with torch.inference_mode():
        assert torch.equal(encoder(**batch).last_hidden_state, model.adabert(**batch).last_hidden_state)


def test_configuration_round_trip_and_refusals(tmp_path: Path) -> None:
    config = AdaBertConfig(**SIZES, cells=("conv3", "avgpool"), embedding_rank=4, id2label={0: "a", 1: "b", 2: "c"})
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(again) is AdaBertConfig
    assert again.cells == ["conv3", "avgpool"]
    assert (again.embedding_rank, again.num_labels, again.id2label[2]) == (4, 3, "c")
    with pytest.raises(ValueError, match="cannot be 'skip'; it is one of conv1"):
        AdaBertConfig(cells=["skip"])


def test_every_part_gets_a_gradient(batch) -> None:
    model = make(cells=CELLS, embedding_rank=4).train()
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_file_stands_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(modeling_adabert.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported <= {*sys.stdlib_module_names, "torch", "transformers"}
