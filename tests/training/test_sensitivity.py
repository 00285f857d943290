"""Sensitivities of a study: found once, for classifiers, numbers and pairs, and refused where there are none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FILLERS, WORDS, write_pairs, write_tagged_words
from study_text import pairs_text, study_text
from torch import Tensor

from nasopt.config.study import StudyConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.models.reconstruction import reconstruct
from nasopt.models.sensitivity.fisher import fisher_information, order_by_fisher
from nasopt.models.sensitivity.token_weights import FLOOR
from nasopt.models.surgery import cut
from nasopt.training import refitting
from nasopt.training.context import Context
from nasopt.training.refitting import refit_projections, study_token_weights
from nasopt.training.samples import SampleSettings
from nasopt.training.sensitivity import check_sensitivity, correct_by_obs, estimate_fisher, study_sensitivity
from nasopt.trial.preparation import prepare

SETTINGS = SampleSettings(64, 16, 0)


def opened(file: Path, folder: Path, phases: list[str]) -> Context:
    folder.mkdir(exist_ok=True)
    return prepare(
        StudyConfig.from_toml(file), folder, lambda phase, done, total: phases.append(phase), has_trials=False
    )


@pytest.fixture
def phases() -> list[str]:
    return []


@pytest.fixture
def classifier(write_study: Callable[..., Path], tmp_path: Path, phases: list[str]) -> Context:
    context = opened(write_study(), tmp_path / "study", phases)
    phases.clear()
    return context


@pytest.fixture
def write_pair_study(tmp_path: Path, tiny_bert: Path) -> Callable[..., Path]:
    folder = write_pairs(
        tmp_path / "pairs",
        {"train": 120, "validation": 40, "test": 40},
        dict(zip(WORDS, FILLERS, strict=False)),
        longest=6,
    )

    def write(task: str = "sentence-similarity", model: str = "", metric: str = "retrieval", extra: str = "") -> Path:
        file = tmp_path / "pairs.toml"
        shown = f'type = "{task}"\nmetric = "{metric}"'
        file.write_text(pairs_text(model or tiny_bert, folder, "", task=shown, method="alphanas", tables=extra))
        return file

    return write


def test_found_once_and_kept(classifier: Context, phases: list[str]) -> None:
    found = study_sensitivity("fisher", SETTINGS, classifier)
    assert phases == ["sensitivity"] * 4
    assert [block.units for block in found.blocks] == [4, 2] * 3
    phases.clear()
    by_obs = study_sensitivity("obs", SETTINGS, classifier)
    assert set(phases) == {"optimal brain surgeon"}  # the Fisher information was there
    phases.clear()
    assert study_sensitivity("fisher", SETTINGS, classifier) == found
    assert study_sensitivity("obs", SETTINGS, classifier) == by_obs
    assert phases == []
    study_sensitivity("fisher", SampleSettings(32, 16, 0), classifier)
    assert phases == ["sensitivity"] * 2


def test_fisher_is_of_the_tasks_loss(classifier: Context) -> None:
    found = study_sensitivity("fisher", SETTINGS, classifier)
    split = classifier.splits["train"]
    singles = [split.batch(row[None]) for row in torch.cat(SETTINGS.batches(split))]
    expected = order_by_fisher(fisher_information(classifier.base_model, singles, classifier.task.training_loss))
    # bf16 rounds, where it is fast.
    for block, wanted in zip(found.blocks, expected.blocks, strict=True):
        assert sum(block.values) == pytest.approx(sum(wanted.values), rel=0.05)


def test_joint_counts_have_the_fisher_order_and_lose_less_at_first(classifier: Context) -> None:
    by_fisher, jointly = (study_sensitivity(criterion, SETTINGS, classifier) for criterion in ("fisher", "joint"))
    for mine, fisher in zip(jointly.blocks, by_fisher.blocks, strict=True):
        assert (mine.order, mine.values) == (fisher.order, fisher.values)
        assert mine.errors == pytest.approx([error**1.5 for error in fisher.errors])


def test_an_example_counts_by_its_words(tiny_bert: Path, tmp_path: Path, phases: list[str]) -> None:
    """Batches do not matter, and the loss of a text is the sum over its words by the mean number of words."""
    data = write_tagged_words(tmp_path / "tagged", {"train": 40, "validation": 20, "test": 20})
    task = 'type = "token-classification"\nmetric = "f1"\nmax_length = 16'
    columns = 'text = ["tokens"]\nlabel = "tags"'
    (tmp_path / "tiny.toml").write_text(study_text(tiny_bert, data, "", method="fisher", task=task, columns=columns))
    context = opened(tmp_path / "tiny.toml", tmp_path / "study", phases)
    split = context.splits["train"]
    terms = context.task.loss_terms(split).double()
    sums = [0.0] * 6
    for row in torch.arange(len(split)):
        one = fisher_information(context.base_model, [split.batch(row[None])], context.task.training_loss)
        share = float((terms[row] / terms.mean()) ** 2)
        for index, values in enumerate((*one.heads, *one.neurons)):
            sums[index] += share * float(values.sum()) / len(split)
    found = estimate_fisher(context.base_model, SampleSettings(len(split), 16, 0), context)
    # bf16 rounds, where it is fast.
    assert [float(values.sum()) for values in (*found.heads, *found.neurons)] == pytest.approx(sums, rel=0.05)


def test_obs_keeps_the_fisher_information_and_its_units(classifier: Context) -> None:
    by_fisher, by_obs = (study_sensitivity(criterion, SETTINGS, classifier) for criterion in ("fisher", "obs"))
    for mine, fisher in zip(by_obs.blocks, by_fisher.blocks, strict=True):
        assert sorted(mine.order) == sorted(fisher.order)
        assert sorted(mine.values) == sorted(fisher.values)
        assert mine.expected_losses[0] == pytest.approx(fisher.expected_losses[0])
        assert (mine.errors[0], mine.errors[-1]) == (1.0, 0.0)
        assert sorted(mine.errors, reverse=True) == list(mine.errors)
    for mine, fisher in zip(by_obs.neurons, by_fisher.neurons, strict=True):
        units = [{*fisher.order[:64]}, {*fisher.order[64:]}]
        assert {*mine.order[:64]} in units


def test_corrected_models_come_nearer(classifier: Context) -> None:
    found = study_sensitivity("obs", SETTINGS, classifier)
    architecture = found.architecture([3, 1, 2, 1, 3, 2])
    cut_only = cut(copy.deepcopy(classifier.base_model), architecture)
    corrected = copy.deepcopy(cut_only)
    correct_by_obs(corrected, architecture, SETTINGS, classifier)
    split = classifier.splits["validation"]
    outputs = [
        classifier.task.evaluate(model, split, classifier.device).outputs
        for model in (classifier.base_model, cut_only, corrected)
    ]
    base, plain, better = (values for values in outputs if values is not None)
    assert ((better - base) ** 2).sum() < ((plain - base) ** 2).sum()


def test_tokens_are_weighed_once_and_the_refit_follows_the_weights(
    classifier: Context, phases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refitting, "autocast", lambda device: nullcontext())  # in fp32 the refits below are equal
    found = study_sensitivity("fisher", SETTINGS, classifier)
    architecture = found.architecture([3, 1, 2, 1, 3, 2])
    small = cut(copy.deepcopy(classifier.base_model), architecture)
    phases.clear()
    refitted = copy.deepcopy(small)
    refit_projections(refitted, architecture, 64, classifier)
    examples, size = 64, classifier.config.training.batch_size
    assert phases.count("weights of tokens") == -(-examples // size)
    settings = SampleSettings(examples, size, classifier.config.seed)
    weights = study_token_weights(settings, classifier)
    refit_projections(copy.deepcopy(small), architecture, 64, classifier)
    assert phases.count("weights of tokens") == -(-examples // size)  # read from the folder
    split = classifier.splits["train"]
    assert [len(tokens) for tokens in weights] == [int(split.lengths[torch.cat(settings.batches(split))].sum())] * 6
    # A classifier of the first token reads no other one after the last attention.
    assert float(weights[-1].quantile(0.5)) == pytest.approx(FLOOR)

    expected = copy.deepcopy(small)
    inputs = [split.batch(positions).inputs for positions in settings.batches(split)]
    reconstruct(expected, classifier.base_model, architecture.kept_layers, inputs, weights=weights)
    place = "bert.encoder.layer.2.attention.output.dense.weight"
    torch.testing.assert_close(refitted.get_parameter(place), expected.get_parameter(place))
    reconstruct(small, classifier.base_model, architecture.kept_layers, inputs)
    assert (small.get_parameter(place) - expected.get_parameter(place)).norm() > 0.01


def test_pairs_are_judged_by_their_vectors_and_not_by_their_ranks(
    write_pair_study: Callable[..., Path], tmp_path: Path, phases: list[str]
) -> None:
    context = opened(write_pair_study(), tmp_path / "study", phases)
    settings = SampleSettings(64, 32, 0)
    found = study_sensitivity("fisher", settings, context)
    assert phases.count("sensitivity") == 2
    split, task = context.splits["train"], context.task.embedding
    assert task is not None
    generator = torch.Generator().manual_seed(0)

    def projected(model: Any, batch: Any) -> Tensor:
        vectors = task.vectors(task.run(model, batch), batch)
        assert all(torch.allclose(rows.norm(dim=1), torch.ones(32)) for rows in vectors)
        return sum((rows * torch.randn(rows.shape, generator=generator)).sum() for rows in vectors) / 32

    batches = [split.batch(positions) for positions in settings.batches(split)]
    expected = order_by_fisher(fisher_information(context.base_model, batches, projected))
    for block, wanted in zip(found.blocks, expected.blocks, strict=True):
        assert sum(block.values) == pytest.approx(sum(wanted.values), rel=0.05)


def test_too_few_examples(classifier: Context, phases: list[str]) -> None:
    for examples in (161, 0):
        with pytest.raises(DatasetError, match=f"found on {examples} training examples, but there are 160"):
            study_sensitivity("fisher", SampleSettings(examples, 16, 0), classifier)
    assert phases == []


def test_decoders_are_left_as_they_are(
    write_pair_study: Callable[..., Path], tmp_path: Path, phases: list[str]
) -> None:
    new_model = """[task.new_model]
encoder_layers = 1
decoder_layers = 2
hidden_size = 32
heads = 2
ffn_size = 64
vocabulary = 100
[task.translation]
max_new_tokens = 8
latency_tokens = 3
"""
    file = write_pair_study("translation", "m2m_100", "bleu", new_model)
    context = opened(file, tmp_path / "study", phases)
    with pytest.raises(UnsupportedModelError, match=r"'m2m_100'.*removed whole.*no sensitivities") as caught:
        check_sensitivity(SETTINGS, context)
    assert "\n" not in str(caught.value)
