from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, MPNetConfig
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models import modeling_nasopt
from nasopt.models.families import family_of
from nasopt.models.modeling_nasopt import (
    MPNetHeads,
    NasoptBertConfig,
    NasoptDistilBertConfig,
    NasoptModernBertConfig,
    NasoptMPNetConfig,
    NoAttention,
    NoOutput,
    OutputBias,
)
from nasopt.models.surgery import cut, layer_counts

FAMILIES = ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"]
TARGET = Architecture(
    (
        KeptUnits((0, 2), tuple(range(64))),
        KeptUnits((), tuple(range(128))),
        None,
        KeptUnits((1, 2, 3), ()),
    )
)
COUNTS = {"layer_heads": [2, 0, 3], "layer_ffn": [64, 128, 0]}


def own_config(model):
    values = {key: value for key, value in model.config.to_dict().items() if key != "model_type"}
    values |= family_of(model).own_values(model)
    return modeling_nasopt.CONFIGS[f"nasopt-{model.config.model_type}"](**values, **COUNTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_these_counts_takes_the_weights_of_a_cut_one(make_model, batch, family):
    model = cut(make_model(family, layers=4), TARGET)
    own = AutoModelForSequenceClassification.from_config(own_config(model), trust_remote_code=False).eval()
    assert type(own).__name__ == f"Nasopt{type(model).__name__}"
    assert layer_counts(model) == (COUNTS["layer_heads"], COUNTS["layer_ffn"])
    own.load_state_dict(model.state_dict())
    with torch.inference_mode():
        mine, theirs = own(**batch, output_hidden_states=True), model(**batch, output_hidden_states=True)
    assert torch.equal(mine.logits, theirs.logits)
    assert len(mine.hidden_states) == 4
    assert all(torch.equal(a, b) for a, b in zip(mine.hidden_states, theirs.hidden_states, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_models_load_and_save_again(make_model, batch, tmp_path: Path, family):
    model = cut(make_model(family, layers=4), TARGET)
    own = AutoModelForSequenceClassification.from_config(own_config(model), trust_remote_code=False).eval()
    own.load_state_dict(model.state_dict())
    own.save_pretrained(tmp_path / "one")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one", trust_remote_code=False)
    again.save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        assert (tmp_path / folder / "modeling_nasopt.py").read_text() == Path(modeling_nasopt.__file__).read_text()
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / folder, trust_remote_code=False).eval()
        with torch.inference_mode():
            assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    encoder = AutoModel.from_pretrained(tmp_path / "two", trust_remote_code=False).eval()
    with torch.inference_mode():
        expected = model.base_model(**batch).last_hidden_state
        assert torch.equal(encoder(**batch).last_hidden_state, expected)


def test_new_models_are_finite_and_train(batch):
    config = NasoptBertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, vocab_size=100, **COUNTS
    )
    model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    loss = model(**batch, labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert model.bert.encoder.layer[1].attention.output.dense.bias.grad.abs().sum() > 0


def test_configuration_round_trip_and_defaults(tmp_path: Path):
    config = NasoptDistilBertConfig(n_layers=3, **COUNTS)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(again) is NasoptDistilBertConfig
    assert (again.layer_heads, again.layer_ffn) == (COUNTS["layer_heads"], COUNTS["layer_ffn"])
    assert copy.deepcopy(again).to_dict() == again.to_dict()
    full = NasoptDistilBertConfig(n_layers=2)
    assert (full.layer_heads, full.layer_ffn) == ([12, 12], [3072, 3072])


def test_counts_must_be_one_per_layer():
    with pytest.raises(ValueError, match="one number for each of the 4 layers, but have 3 and 3"):
        NasoptBertConfig(num_hidden_layers=4, **COUNTS)


def test_mpnet_layers_name_their_heads():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 100, "num_hidden_layers": 3}
    config = NasoptMPNetConfig(**sizes, **COUNTS)
    assert config.layer_kept_heads == [[0, 1], [], [0, 1, 2]]
    config = NasoptMPNetConfig(**sizes, **COUNTS, layer_kept_heads=[[0, 3], [], [0, 1, 3]])
    assert NasoptMPNetConfig.from_dict(config.to_dict()).layer_kept_heads == [[0, 3], [], [0, 1, 3]]
    with pytest.raises(ValueError, match="as many heads for each layer"):
        NasoptMPNetConfig(**sizes, **COUNTS, layer_kept_heads=[[0], [], [0, 1, 3]])


def test_mpnet_heads_add_their_own_columns_of_the_shared_bias():
    """Compares with attention written out for one head."""
    torch.manual_seed(0)
    config = MPNetConfig(hidden_size=32, num_attention_heads=4, vocab_size=100, num_hidden_layers=1)
    full = MPNetSelfAttention(config).eval()
    hidden, bias = torch.randn(2, 5, 32), torch.randn(2, 6, 5, 5)
    with torch.inference_mode():
        heads = MPNetHeads(full, (0, 2, 3, 5))(hidden, position_bias=bias, output_attentions=True)
        for head, column in enumerate((0, 2, 3, 5)):
            rows = slice(head * 8, head * 8 + 8)
            query, key = full.q(hidden)[..., rows], full.k(hidden)[..., rows]
            expected = (query @ key.mT / 8**0.5 + bias[:, column]).softmax(dim=-1)
            assert torch.allclose(heads[1][:, head], expected, atol=1e-6)


def test_modernbert_without_its_first_layer(make_model, batch, tmp_path: Path):
    """Its second layer, which normalises its input, becomes the first one, and its attention stays local."""
    everything = KeptUnits((0, 1, 2, 3), tuple(range(128)))
    model = cut(make_model("modernbert"), Architecture((None, everything, everything)))
    assert model.config.layer_types == ["sliding_attention"] * 2
    config = NasoptModernBertConfig(**model.config.to_dict() | family_of(model).own_values(model))
    assert config.first_layer_norm
    own = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    own.load_state_dict(model.state_dict())
    own.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert family_of(model).own_values(make_model("modernbert")) == {}


def test_empty_blocks():
    bias = OutputBias(torch.tensor([1.0, 2.0]))
    assert torch.equal(bias(torch.zeros(3, 5, 7)), torch.tensor([1.0, 2.0]).expand(3, 5, 2))
    hidden = torch.randn(2, 3, 4)
    output, weights = NoAttention()(hidden, None, output_attentions=True)
    assert output is hidden
    assert weights is None
    assert torch.equal(NoOutput(2)(torch.ones(3, 5, 7)), torch.zeros(3, 5, 2))
    inside = NoAttention()
    inside.add_module("out_lin", bias)
    assert torch.equal(inside(hidden)[0], bias(hidden))


def test_the_file_stands_alone():
    imported = set()
    for node in ast.walk(ast.parse(Path(modeling_nasopt.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported <= {*sys.stdlib_module_names, "torch", "transformers"}
