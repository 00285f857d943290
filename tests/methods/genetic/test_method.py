"""The genetic method: options, inheritance, user functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import nasopt
from nasopt.architecture.base import EncoderShape
from nasopt.errors import StudyFileError
from nasopt.methods.fisher.method import FisherMethod
from nasopt.methods.fisher.options import FisherOptions
from nasopt.methods.genetic.method import GeneticMethod
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.methods.registry import available
from nasopt.models.surgery import keep_first
from nasopt.records.names import CHECKPOINT
from nasopt.testing.small_study import SmallStudy
from nasopt.training.sensitivity import sample_settings
from nasopt.training.sub_networks import study_sub_networks
from nasopt.training.weights import Cut
from nasopt.trial.objective import Objective

pytestmark = pytest.mark.integration

WriteStudy = Callable[..., Path]
FULL = {f"{part}_{layer}": full for layer in range(3) for part, full in (("layer", 1), ("heads", 4), ("ffn", 128))}
BASE = {**FULL, "precision": "fp32", "training": "none"}


def reversed_first(
    model: torch.nn.Module, layer: int, block: str, candidates: tuple[int, ...], keep: int
) -> tuple[int, ...]:
    """A user's pruning function: the last units stay."""
    return candidates[-keep:]


def to_bfloat16(model, precision):  # type: ignore[no-untyped-def]
    """A user's quantisation function."""
    import copy

    return copy.deepcopy(model).to(torch.float32 if precision == "fp32" else torch.bfloat16)


def make(path: Path, tmp_path: Path, **options: object) -> tuple[Objective, optuna.Study]:
    config = nasopt.StudyConfig.from_toml(path)
    config = config.model_copy(update={"method_options": {**config.method_options, **options}})
    objective = nasopt.Objective(config, tmp_path / "artifacts")
    return objective, optuna.create_study(directions=objective.directions, sampler=objective.sampler())


def test_it_is_found_by_name() -> None:
    assert available()["genetic"] is GeneticMethod


def test_published_defaults() -> None:
    options = GeneticOptions(start="base")
    assert (options.a, options.b, options.c) == (5.0, 1.0, 1.0)
    assert (options.population_size, options.generations) == (100, 100)
    assert options.used_mutations == ("remove_last",)
    assert options.weights == "inherit"
    assert not options.scale_by_t2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precisions": ["int8"]}, "fp32 among them"),
        ({"precisions": ["fp32", "fp32"]}, "once"),
        ({"mutations": []}, "at least 1"),
        ({"mutation_prob": 0, "quantization_prob": 0, "crossover_prob": 0}, "no child would differ"),
        ({"pruning": "json"}, "package.module:function"),
        ({"quantization": "json.nothing()"}, "package.module:function"),
        ({"a": float("nan")}, "finite"),
        ({"weights": "elastic", "pruning": "magnitude"}, "set pruning to one of fisher, obs, not magnitude"),
        ({"mutations": ["remove_most"]}, "'remove_most' is not a mutation"),
    ],
)
def test_options_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GeneticOptions.model_validate(change)


def test_functions_are_imported_before_anything_is_prepared_and_not_earlier(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    objective, study = make(write_study(), tmp_path, quantization="json:nothing")
    assert objective.method.plan.quantizer is not None
    with pytest.raises(StudyFileError, match=r"method_options.quantization: 'json:nothing' cannot be imported"):
        study.optimize(objective, n_trials=1)
    assert not (tmp_path / "artifacts" / "tiny" / "data").exists()


def test_base_params_are_the_full_genotype() -> None:
    shape = EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=64)
    assert GeneticMethod(GeneticOptions()).space(shape).base == BASE


def test_a_child_inherits_what_its_parent_has_and_restores_the_rest_from_the_base(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    objective, study = make(write_study(), tmp_path, pruning=f"{keep_first.__module__}:keep_first")
    pruned = {**BASE, "layer_1": 0, "heads_1": 0, "ffn_1": 0, "heads_0": 2, "training": "finetune"}
    restored = {**BASE, "heads_0": 3}
    study.enqueue_trial(BASE)
    study.enqueue_trial(pruned, user_attrs={"parent": 0})
    study.enqueue_trial(restored, user_attrs={"parent": 1})
    study.optimize(objective, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3, study.trials[-1].user_attrs
    store = objective.prepare(study).checkpoints
    base, parent, child = (store.read(trial.user_attrs[CHECKPOINT])[0] for trial in study.trials)
    name = "bert.encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(child[name.format(1)], base[name.format(1)])  # the removed layer is back
    assert torch.equal(child[name.format(2)], parent[name.format(1)])  # the third layer was the parent's second
    assert torch.equal(child[name.format(0)][:32], parent[name.format(0)])
    assert torch.equal(child[name.format(0)][32:], base[name.format(0)][32:48])
    assert not torch.equal(parent[name.format(0)], base[name.format(0)][:32])  # it was trained


def test_a_change_of_precision_alone_keeps_the_weights(write_study: WriteStudy, tmp_path: Path) -> None:
    objective, study = make(write_study(), tmp_path)
    study.enqueue_trial(BASE)
    study.enqueue_trial({**BASE, "precision": "bf16"}, user_attrs={"parent": 0})
    study.optimize(objective, n_trials=2)
    base, child = study.trials
    assert base.user_attrs[CHECKPOINT] == child.user_attrs[CHECKPOINT]
    assert child.values[2] == pytest.approx(base.values[2] / 2)


def test_user_functions_prune_and_quantise(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    objective, study = make(write_study(), tmp_path, pruning="mine:reversed_first", quantization="mine:to_bfloat16")
    study.enqueue_trial(BASE)
    study.enqueue_trial({**BASE, "heads_0": 1, "precision": "int8"}, user_attrs={"parent": 0})
    study.optimize(objective, n_trials=2)
    _, architecture = objective.prepare(study).checkpoints.read(study.trials[1].user_attrs[CHECKPOINT])
    assert architecture.layers[0].heads == (3,)
    parameters = study.trials[1].user_attrs["parameters"]
    assert study.trials[1].values[2] == pytest.approx(parameters * 2 / 1e6)


@pytest.mark.integration
def test_evolution_begins_with_a_ladder_and_its_healed_children(write_study: WriteStudy, tmp_path: Path) -> None:
    config = nasopt.StudyConfig.from_toml(
        write_study(**{'start = "base"': 'cost = "flops"\nladder = 3\nlowest_share = 0.3'})
    )
    study = SmallStudy.created(config, tmp_path)
    study.run(4)
    resumed = SmallStudy.reopened(tmp_path, config.name)
    resumed.run(4)
    base, *trials = resumed.opened.study.trials
    ladder, healed, rest = trials[:3], trials[3:6], trials[6:]
    assert [trial.params for trial in ladder] == resumed.opened.study.user_attrs["ladder"]
    whole, middle, large, small = (trial.user_attrs["parameters"] for trial in (base, *ladder))
    assert whole > large > middle > small
    for rung, child in zip(ladder, healed, strict=True):
        assert (rung.user_attrs["parent"], rung.params["training"]) == (base.number, "none")
        assert rung.user_attrs.get("distill_epochs", 0) == 0
        assert child.params == {**rung.params, "training": "distill"}
        assert (child.user_attrs["parent"], child.user_attrs["distill_epochs"]) == (rung.number, 1)
    assert all(trial.params not in [other.params for other in trials[:6]] for trial in rest)


@pytest.mark.integration
def test_the_ladder_is_that_of_the_fisher_method_and_guides_mutations(write_study: WriteStudy, tmp_path: Path) -> None:
    objective, study = make(
        write_study(), tmp_path, start="fisher", pruning="obs", cost="flops", ladder=1, lowest_share=0.5, mutations=None
    )
    study.enqueue_trial(BASE)
    study.optimize(objective, n_trials=1)
    context = objective.prepare(study)
    (rung,) = study.user_attrs["ladder"]
    study.optimize(objective, n_trials=1)
    weights, architecture = context.checkpoints.read(study.trials[1].user_attrs[CHECKPOINT])
    fisher = FisherMethod(FisherOptions(cost="flops", trials=1))
    params = {"latency_share": 0.5, "criterion": "obs", "precision": "fp32", "training": "none"}
    assert architecture == fisher.architecture(params, context)
    assert architecture.to_params() == {name: rung[name] for name in rung if name != "training"}
    expected = fisher.weights(params, context).candidate(architecture, context).model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    networks = study_sub_networks("obs", sample_settings(None, context), "flops", context)
    assert study.user_attrs["guidance"]["heads_1"] == {
        "counts": [0, 1, 2, 3, 4],
        "losses": list(networks.sensitivity.heads[1].expected_losses),
        "times": list(networks.times.heads),
    }
    assert study.user_attrs["guidance"]["ffn_2"]["counts"] == [0, 64, 128]


@pytest.mark.integration
def test_what_is_cut_from_the_base_depends_on_the_genotype_alone(write_study: WriteStudy, tmp_path: Path) -> None:
    objective, study = make(
        write_study(), tmp_path, weights="cut", pruning="obs", crossover_prob=0, quantization_prob=0, mutations=None
    )
    study.enqueue_trial(BASE)
    pruned = {**BASE, "heads_0": 2, "ffn_1": 64}
    study.enqueue_trial({**pruned, "training": "distill"}, user_attrs={"parent": 0})
    study.enqueue_trial(pruned, user_attrs={"parent": 1})
    study.enqueue_trial(pruned, user_attrs={"parent": 0})
    study.optimize(objective, n_trials=5)
    _, healed, cut, again, drawn = study.trials
    assert (healed.user_attrs["distill_epochs"], healed.user_attrs["parent"]) == (1, 0)
    assert (cut.user_attrs.get("distill_epochs", 0), cut.user_attrs["parent"]) == (0, 0)
    assert again.user_attrs["repeats"] == cut.number
    assert drawn.params["training"] == "none"
    context = objective.prepare(study)
    weights, architecture = context.checkpoints.read(cut.user_attrs[CHECKPOINT])
    source = Cut(sample_settings(None, context).examples, "both")
    expected = source.candidate(architecture, context).model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.integration
def test_trials_are_slices_of_the_elastic_base_until_they_are_distilled(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    objective, study = make(
        write_study(), tmp_path, weights="elastic", pruning="obs", cost="flops", elastic_epochs=1, random_prefixes=0
    )
    study.enqueue_trial(BASE)
    study.optimize(objective, n_trials=1)
    context = objective.prepare(study).for_trial(1, None)
    params = {**BASE, "heads_0": 2, "ffn_1": 64}
    architecture = objective.method.architecture(params, context)
    slice_ = objective.method.weights(params, context).candidate(architecture, context)
    assert (slice_.is_provisional, slice_.lineage.search_epochs) == (True, 1)
    (file,) = (context.folder / "elastic").glob("base-*.safetensors")
    elastic = load_file(file)
    heads = list(architecture.layers[0].heads)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    expected = elastic[name].reshape(4, 16, -1)[heads].flatten(0, 1)
    assert torch.equal(slice_.model.state_dict()[name], expected)
    healed = objective.method.weights({**params, "training": "distill"}, context).candidate(architecture, context)
    assert (healed.is_provisional, healed.lineage.distill_epochs) == (False, 1)


@pytest.mark.parametrize(
    ("options", "guided"),
    [
        ({}, True),
        ({"start": "base"}, False),
        ({"start": "base", "mutations": ["restore_most"], "pruning": "magnitude"}, True),
        ({"mutations": ["remove_any_heads"]}, False),
    ],
)
def test_what_is_guided(options: dict[str, object], guided: bool) -> None:
    found = GeneticOptions.model_validate(options)
    assert found.is_guided is guided
    assert found.needs_sensitivity is (guided or found.start == "fisher" or found.pruning == "obs")
