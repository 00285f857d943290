"""The elastic base: what a step adds up, its budget, and that it is made once and goes on after a kill."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nasopt.architecture.encoder import Architecture
from nasopt.training import elastic
from nasopt.training.context import Context
from nasopt.training.distillation import LossWeights, distillation_loss
from nasopt.training.elastic import ElasticSettings, elastic_base
from nasopt.training.samples import SampleSettings
from nasopt.training.sub_networks import SubNetworks, study_sub_networks
from nasopt.training.weights import Elastic

SAMPLE = SampleSettings(64, 16, 0)
SETTINGS = ElasticSettings("fisher", SAMPLE, "flops", 0.2, epochs=2, random_prefixes=2, loss=LossWeights())
HEAD = "classifier.weight"


class Killed(Exception):
    """A process that ends in the middle of a training."""


def networks_of(context: Context) -> SubNetworks:
    return study_sub_networks("fisher", SAMPLE, "flops", context)


def losses(context: Context, weights: dict[str, torch.Tensor], shares: tuple[float, ...]) -> list[float]:
    """The distillation loss of the sub-networks of some shares, cut out of these weights, on the training split."""
    split = context.splits["train"]
    loss = distillation_loss(LossWeights(), context.task, context.teachers())
    found = []
    for share in shares:
        model = copy.deepcopy(context.base_model)
        model.load_state_dict(weights)
        small = elastic.SlicedModel(model, networks_of(context).architecture(share))
        with torch.no_grad():
            found.append(float(loss(small, split.batch(torch.arange(len(split))))))
    return found


def test_its_prefixes_are_better_than_those_of_the_base_model(context: Context) -> None:
    found = elastic_base(replace(SETTINGS, epochs=4), context)
    shares = (0.2, 0.35, 0.6)
    before, after = losses(context, context.base_model.state_dict(), shares), losses(context, found.weights, shares)
    assert all(mine < theirs for mine, theirs in zip(after, before, strict=True)), (before, after)


def test_it_is_made_once(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = []
    train = elastic.train
    monkeypatch.setattr(elastic, "train", lambda *args, **kwargs: trainings.append(1) or train(*args, **kwargs))
    first = elastic_base(SETTINGS, context)
    again = elastic_base(SETTINGS, context)
    assert len(trainings) == 1
    assert first.budget == again.budget
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    elastic_base(replace(SETTINGS, random_prefixes=1), context)
    other = elastic_base(replace(SETTINGS, learning_rate=1e-5), context)
    assert len(trainings) == 3
    moved = [torch.dist(item.weights[HEAD], context.base_model.state_dict()[HEAD]) for item in (other, first)]
    assert 0 < moved[0] < moved[1]


def test_a_training_that_was_killed_goes_on_to_the_same_weights(context: Context, tmp_path: Path) -> None:
    whole = elastic_base(SETTINGS, context)
    steps: list[int] = []

    def until(last: int | None) -> Context:
        def on_phase(phase: str, done: int, total: int) -> None:
            if phase == "elastic base":
                steps.append(done)
                if done == last:
                    raise Killed

        return replace(context, folder=tmp_path / "other", on_phase=on_phase)

    (tmp_path / "other").mkdir()
    with pytest.raises(Killed):
        elastic_base(SETTINGS, until(15))  # 10 batches of 16 in an epoch
    resumed = elastic_base(SETTINGS, until(None))
    assert steps == [*range(1, 16), *range(11, 21)]
    assert resumed.budget == whole.budget
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    assert [file.name for file in (tmp_path / "other" / "elastic").glob("state*")] == []


def test_its_budget_counts_every_pass_by_its_flops(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[tuple[nn.Module, int]] = []
    distillation = elastic.distillation_loss

    def watched(*args: object) -> object:
        loss = distillation(*args)  # type: ignore[arg-type]

        def watching(module: nn.Module, batch: object) -> torch.Tensor:
            passes.append((module, len(batch.labels)))  # type: ignore[attr-defined]
            return loss(module, batch)

        return watching

    monkeypatch.setattr(elastic, "distillation_loss", watched)
    found = elastic_base(replace(SETTINGS, epochs=1), context)
    # Multiply-adds for one token: a layer's 4 heads of 16 on 64 hidden units take about 4 * 64 * 16 each, its 128
    # neurons 2 * 64 each; embeddings none, pooler and head are of one token of a text.
    expected = 0.0
    for module, examples in passes:
        if not isinstance(module, elastic.SlicedModel):
            expected += examples
            continue
        counts = [item.numel() for name, item in module.cut_weights() if "layer." in name and item.ndim == 2]
        expected += examples * sum(counts) / (3 * (4 * 64 * 64 + 2 * 64 * 128))
    assert len(passes) == 10 * 4
    assert [isinstance(module, elastic.SlicedModel) for module, _ in passes[:2]] == [False, True]
    assert found.budget == pytest.approx(expected, rel=0.05)


def test_a_candidate_is_a_provisional_slice(context: Context) -> None:
    found = elastic_base(SETTINGS, context)
    architecture = networks_of(context).architecture(0.4).with_precision("int8")
    candidate = Elastic(SETTINGS).candidate(architecture, context)
    assert candidate.is_provisional
    assert candidate.architecture == architecture
    assert candidate.lineage.search_epochs == SETTINGS.epochs
    assert candidate.lineage.budget == found.budget > 2 * 160
    model = copy.deepcopy(context.base_model)
    model.load_state_dict(found.weights)
    batch = context.splits["validation"].batch(torch.arange(20)).inputs
    with torch.no_grad():
        expected = elastic.SlicedModel(model, architecture)(**batch).logits
        assert torch.allclose(candidate.model(**batch).logits, expected, atol=1e-5)
    assert Architecture.full(context.shape) != architecture
