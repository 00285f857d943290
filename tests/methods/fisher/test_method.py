"""The fisher method on tiny models: whole searches, what a share becomes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import run
from lookup_tables import document
from pydantic import ValidationError

from nasopt.architecture.encoder import Architecture
from nasopt.methods.fisher.method import FisherMethod
from nasopt.methods.fisher.options import FisherOptions
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import OpenStudy, open_study
from nasopt.training.candidate import RejectedCandidateError
from nasopt.training.context import Context

FLOPS = 'cost = "flops"\nexamples = 64\n'
SMALL_SEARCH = 'trials = 7\nladder = 3\nlowest_share = 0.3\nprecisions = ["fp32", "bf16"]\n'


@pytest.fixture
def write(write_study: Callable[..., Path]) -> Callable[..., Path]:
    def write(options: str, **more: str) -> Path:
        return write_study(method="fisher", options=options, **more)

    return write


def opened() -> OpenStudy:
    return open_study(parse_url("sqlite:///nasopt.db"), "tiny")


def flops_of(architecture: Architecture) -> int:
    """Multiply-adds of a layer's matrix products for one token of 16: 64 hidden, heads of 16."""
    kept = [units for units in architecture.layers if units is not None]
    heads, neurons = sum(len(units.heads) for units in kept), sum(len(units.neurons) for units in kept)
    return heads * (4 * 64 * 16 + 2 * 16 * 16) + neurons * 2 * 64


@pytest.mark.integration
def test_a_whole_search_with_its_controls(study_folder: Path, write: Callable[..., Path]) -> None:
    result = run("study", "create", write(FLOPS + SMALL_SEARCH))
    assert result.code == 0, result.err
    result = run("study", "optimize", "tiny")
    assert result.code == 0, result.err
    base, *trials = opened().study.trials
    assert (base.params["latency_share"], base.user_attrs["base"]) == (1.0, True)
    ladder, later = trials[:3], trials[3:]
    assert [round(trial.params["latency_share"], 3) for trial in ladder] == [0.448, 0.669, 0.3]
    assert {trial.params["training"] for trial in ladder} == {"none"}
    copy, healed = later[:2]  # whether the healed one has a copy, too, is up to its measured latency
    assert copy.params == {**base.params, "precision": "bf16"}
    assert copy.user_attrs["parent"] == base.number
    assert copy.user_attrs["checkpoint"] == base.user_attrs["checkpoint"]
    assert not copy.user_attrs["training_result"]
    assert copy.values[2] < base.values[2]
    assert healed.params["training"] == "distill"
    store = CheckpointStore(opened().folder / "checkpoints")
    for trial in trials:
        assert trial.state.name == "COMPLETE", trial.user_attrs
        assert trial.user_attrs.get("distill_epochs", 0) == int(trial.params["training"] == "distill")
        if trial.user_attrs["checkpoint"] in store:
            architecture = store.architecture(trial.user_attrs["checkpoint"])
            assert isinstance(architecture, Architecture)
            whole = 3 * (4 * (4 * 64 * 16 + 2 * 16 * 16) + 128 * 2 * 64)
            assert flops_of(architecture) <= trial.params["latency_share"] * whole * (1 + 1e-9)
    assert {file.name.split("-")[0] for file in (opened().folder / "sensitivity").glob("*.safetensors")} == {
        "fisher",
        "obs",
        "tokens",
    }

    result = run("study", "controls", "tiny", "--random-masks", "1")
    assert result.code == 0, result.err
    members = [row for row in json.loads(run("study", "pareto", "tiny", "-f", "json").out) if row["number"] != 0]
    assert members
    assert all(row["comparison"] is not None for row in members)
    labels = {trial.user_attrs["control"] for trial in opened().study.trials if "control" in trial.user_attrs}
    assert "random-units-0" in labels
    shortest = min(row["params"]["latency_share"] for row in members)
    assert any(label.startswith("first-") for label in labels) == (round(3 * shortest) < 3)


@pytest.mark.integration
def test_shares_are_of_a_table_measured_once(study_folder: Path, write: Callable[..., Path]) -> None:
    result = run("study", "create", write("examples = 32\ntrials = 1\nladder = 1\nlowest_share = 0.8\n"))
    assert result.code == 0, result.err
    result = run("study", "optimize", "tiny", "--n-trials", "1")
    assert result.code == 0, result.err
    (file,) = (opened().folder / "sensitivity").glob("device-*.json")
    written = file.stat().st_mtime_ns
    table = json.loads(file.read_text())
    assert {entry["hidden_size"] for entry in table["entries"]} == {64}
    result = run("study", "optimize", "tiny", "--n-trials", "1")
    assert result.code == 0, result.err
    assert file.stat().st_mtime_ns == written


def method_of(**options: object) -> FisherMethod:
    return FisherMethod(FisherOptions.model_validate({"cost": "flops", "examples": 64, **options}))


def params(share: float, **more: object) -> dict[str, object]:
    return {"latency_share": share, "precision": "fp32", "training": "none", "criterion": "fisher", **more}


def test_smaller_shares_keep_less(context: Context) -> None:
    method = method_of()
    for criterion in ("fisher", "joint", "obs"):
        found = [method.architecture(params(share, criterion=criterion), context) for share in (1.0, 0.6, 0.3, 0.1)]
        assert found[0] == Architecture.full(context.shape)
        work = [flops_of(item) for item in found]
        assert work == sorted(work, reverse=True)
        assert len(set(work)) == 4


def test_a_rung_is_by_the_first_criterion_that_leaves_the_last_layer_a_head(context: Context) -> None:
    seen = set()
    for criteria in (["fisher", "obs"], ["obs", "fisher"]):
        method = method_of(criteria=criteria)
        for share in (0.9, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05):
            layers = [method.architecture(params(share, criterion=item), context).layers for item in criteria]
            first, second = (bool(kept[-1].heads) for kept in layers)
            seen.add((first, second))
            assert method.rung(share, context) == params(share, criterion=criteria[0] if first else criteria[1])
    assert {(True, True), (False, True)} <= seen


def test_a_refit_changes_what_a_block_writes(context: Context) -> None:
    for criterion in ("fisher", "joint", "obs"):
        chosen = params(0.5, criterion=criterion)
        models = []
        for refit in (False, True):
            method = method_of(refit=refit)
            architecture = method.architecture(chosen, context)
            models.append(method.weights(chosen, context).candidate(architecture, context).model.state_dict())
        changed = {name for name in models[0] if not torch.equal(models[0][name], models[1][name])}
        assert changed
        assert all(name.endswith(("output.dense.weight", "output.dense.bias", "output.bias")) for name in changed)


def test_elastic_weights_are_provisional_until_they_are_healed(context: Context) -> None:
    method = method_of(weights="elastic", elastic_epochs=1, random_prefixes=1, lowest_share=0.3)
    assert method.space(context.shape).distributions["criterion"].choices == ("joint",)
    method.prepare(context)
    (file,) = (context.folder / "elastic").glob("base-*.safetensors")
    written = file.stat().st_mtime_ns
    found = {}
    for training in ("none", "distill"):
        chosen = params(0.5, training=training)
        architecture = method.architecture(chosen, context)
        found[training] = method.weights(chosen, context).candidate(architecture, context)
    assert (found["none"].is_provisional, found["distill"].is_provisional) == (True, False)
    base, healed = found["none"].lineage, found["distill"].lineage
    assert (base.search_epochs, base.distill_epochs) == (1, 0)
    assert healed == base.trained("distill", 1, context.epoch_cost(architecture))
    assert file.stat().st_mtime_ns == written


def test_a_share_that_cannot_be_reached_is_rejected(context: Context, tmp_path: Path) -> None:
    config = context.config.model_copy(deep=True)
    table = tmp_path / "device.json"
    table.write_text(json.dumps(document()))
    latency = config.latency[0].model_copy(update={"mode": "lut", "lut": str(table)})
    context.config = config.model_copy(update={"latency": (latency,)})
    method = method_of(cost="latency", lowest_share=0.01)
    # Embedding, pooler, head and three empty layers take 2.05 of 32.05 ms.
    with pytest.raises(RejectedCandidateError, match=r"the smallest sub-network takes 0\.064"):
        method.architecture(params(0.06), context)
    smallest = method.architecture(params(0.065), context)
    assert all(units is not None and not units.heads and not units.neurons for units in smallest.layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest_share": 0}, "greater than 0"),
        ({"lowest_share": 1.5}, "less than 1"),
        ({"criteria": ["taylor"]}, "'fisher', 'joint' or 'obs'|obs"),
        ({"criteria": ["obs", "obs"]}, "once"),
        ({"precisions": ["int8"]}, "fp32 among them"),
        ({"ladder": -1}, "greater than or equal to 0"),
        ({"weights": "shared"}, "'cut' or 'elastic'"),
        ({"elastic_learning_rate": 0}, "greater than 0"),
        ({"elastic_epochs": 0}, "greater than or equal to 1"),
        ({"random_prefixes": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FisherOptions.model_validate(options)


def test_more_examples_than_there_are_is_told(study_folder: Path, write: Callable[..., Path]) -> None:
    result = run("study", "create", write("examples = 161\n"))
    assert result.code == 2
    assert "161 training examples, but there are 160" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_ladder_below_what_a_profile_says_is_told(study_folder: Path, write: Callable[..., Path]) -> None:
    options = "lowest_share = 0.01\n"
    result = run("study", "create", write(options, **{'device = "cpu"': 'device = "a100"', "threads = 1\n": ""}))
    assert result.code == 2
    assert "method_options.lowest_share: 0.01 of the base model's latency cannot be reached" in result.err


def test_translators_have_no_sensitivities() -> None:
    assert "translation" not in FisherMethod.about.task_types
