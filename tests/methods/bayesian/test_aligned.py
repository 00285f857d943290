from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import write_pairs
from decoders import make_decoder, pairs

from nasopt.config.study import TrainingConfig
from nasopt.config.task import TaskConfig
from nasopt.methods.bayesian.aligned import (
    UNIFORM_BOUND,
    Aligned,
    StudentTraining,
    align,
    hinton_loss,
    mean_loss,
    randomise,
    soft_cross_entropy,
    train_student,
    zeroed_model,
)
from nasopt.methods.bayesian.trajectory import Schedule, Trajectory, posterior_path
from nasopt.methods.bayesian.variational import LARGEST_INITIAL_VARIANCE
from nasopt.models.layers import partition
from nasopt.models.posterior import diagonal
from nasopt.tasks.base import Task
from nasopt.tasks.translation import Translation


@pytest.fixture
def walked(tmp_path):
    """(family) -> a model and the posterior of a random walk that ended there."""

    def walk(name):
        model = make_decoder(name)
        trajectory = Trajectory(model, Schedule(rank=3, start=0.0, collections=6), tmp_path)
        generator = torch.Generator().manual_seed(0)
        for done in range(1, 7):
            with torch.no_grad():
                for parameter in (item for item in model.parameters() if item.requires_grad):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
            trajectory.on_step(done, 6)
        trajectory.finish("walk")
        return model, posterior_path(tmp_path, "walk")

    return walk


def _logits(model):
    with torch.inference_mode():
        return model(**pairs()).logits


@pytest.mark.parametrize("name", ["m2m_100", "t5"])
@pytest.mark.parametrize("structure", ["point", "diagonal", "low_rank"])
def test_students_of_pre_norm_models_are_their_teachers_with_silent_layers(walked, name, structure):
    model, path = walked(name)
    before = copy.deepcopy(model.state_dict())
    aligned = align(model, path, structure, [0, 2])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert set(aligned.names) == set(aligned.prior.mean)
    student = dict(aligned.model.named_parameters())
    assert set(aligned.names.values()) == set(student)
    for base, own in aligned.names.items():
        assert torch.equal(student[own], aligned.prior.mean[base])
    torch.testing.assert_close(
        _logits(zeroed_model(model, aligned, [0, 2])), _logits(aligned.model), atol=1e-4, rtol=1e-4
    )
    assert list(aligned.distances) == ["0", "2"]
    assert all((value is None) == (structure == "point") for value in aligned.distances.values())


def test_only_the_low_rank_posterior_moves_what_stays(walked):
    model, path = walked("mbart")
    kept = partition(model, 1).kept
    structures = ("point", "diagonal", "low_rank")
    point, diagonal, low_rank = (align(model, path, kind, [1]).prior.mean for kind in structures)
    assert all(torch.equal(point[name], dict(model.named_parameters())[name]) for name in kept)
    whole = align(model, path, "low_rank", []).prior.mean
    assert all(torch.equal(diagonal[name], whole[name]) for name in kept)
    assert any(not torch.equal(low_rank[name], whole[name]) for name in kept)


def test_post_norm_models_differ_from_their_students(walked):
    model, path = walked("bart")
    aligned = align(model, path, "diagonal", [1])
    assert float((_logits(zeroed_model(model, aligned, [1])) - _logits(aligned.model)).abs().max()) > 0.05


@pytest.mark.parametrize("name", ["m2m_100", "marian"])
def test_random_starts_have_nothing_of_the_teacher(name):
    model = make_decoder(name)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    uniform = randomise(copy.deepcopy(model), "uniform", seed=0)
    for key, parameter in uniform.named_parameters():
        if parameter.requires_grad:
            assert float(parameter.abs().max()) <= UNIFORM_BOUND
        else:
            assert torch.equal(parameter, before[key])  # sinusoids
    initial = randomise(copy.deepcopy(model), "initial", seed=0)
    assert float(initial.get_decoder().layers[0].fc1.bias.abs().max()) == 0.0
    again = randomise(copy.deepcopy(model), "initial", seed=0)
    assert all(torch.equal(a, b) for a, b in zip(initial.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(initial.parameters()), next(randomise(model, "initial", seed=1).parameters()))


def test_hinton_adds_soft_targets_of_real_tokens_only():
    def outputs(value):
        logits = torch.zeros(1, 2, 2)
        logits[0, 0, 0], logits[0, 1, 0] = value, 99.0  # the second token is padding
        return [SimpleNamespace(logits=logits)]

    task = SimpleNamespace(
        run=lambda model, batch: outputs(model),
        loss_of=lambda outputs, batch: torch.tensor(3.0),
        probabilities=None,
        distributions=partial(Task.distributions, None),
    )
    batch = SimpleNamespace(sides=[None, SimpleNamespace(attention_mask=torch.tensor([[1, 0]]))])
    loss = hinton_loss(task, 2.0, temperature=2.0, soft_weight=0.5)(4.0, batch)
    target = 1 / (1 + math.exp(-1))  # softmax of (2, 0) / 2
    expected = -target * math.log(1 / (1 + math.exp(-2))) - (1 - target) * math.log(1 / (1 + math.exp(2)))
    assert float(loss) == pytest.approx(3.0 + 0.5 * expected, rel=1e-6)


def test_hinton_of_several_labels_takes_each_label_s_probability():
    task = SimpleNamespace(
        run=lambda model, batch: [SimpleNamespace(logits=model)],
        loss_of=lambda outputs, batch: torch.tensor(3.0),
        probabilities="sigmoid",
        distributions=partial(Task.distributions, None),
    )
    teacher, student = torch.tensor([[2.0, -4.0]]), torch.tensor([[1.0, 0.5]])
    batch = SimpleNamespace(sides=[SimpleNamespace(attention_mask=torch.tensor([[1, 1]]))])
    loss = hinton_loss(task, teacher, temperature=2.0, soft_weight=0.5)(student, batch)
    expected = 0.0
    for taught, found in ((1.0, 0.5), (-2.0, 0.25)):  # logits / 2
        p, q = 1 / (1 + math.exp(-taught)), 1 / (1 + math.exp(-found))
        expected -= p * math.log(q) + (1 - p) * math.log(1 - q)
    assert float(loss) == pytest.approx(3.0 + 0.5 * expected, rel=1e-6)


def test_soft_targets_are_softened_on_both_sides():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    expected = -(
        (1 / (1 + math.exp(2))) * math.log(1 / (1 + math.exp(-1)))
        + (1 / (1 + math.exp(-2))) * math.log(1 / (1 + math.exp(1)))
    )
    assert float(soft_cross_entropy(student, teacher, temperature=2.0)) == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def translation(tmp_path):
    """A new translator, and its training split with the validation split."""
    data = write_pairs(tmp_path, {"train": 24, "validation": 9}, {"open": "а", "close": "б", "file": "в"}, longest=7)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "hidden_size": 16, "heads": 2, "ffn_size": 16}
    config = {
        "type": "translation",
        "model": "m2m_100",
        "metric": "bleu",
        "max_length": 16,
        "new_model": {**sizes, "vocabulary": 100, "dropout": 0.0},
        "translation": {"max_new_tokens": 8, "latency_tokens": 5, "label_smoothing": 0.0},
        "dataset": {"path": str(data), "text": ["first", "second"]},
    }
    task = Translation(TaskConfig.model_validate(config))
    splits = task.encode(tmp_path)
    return task, splits["train"], splits["validation"]


@torch.no_grad()
def _token_losses(task, model, split):
    """Minus the log-probability of every target token, one tensor for each pair."""
    losses = []
    for index in range(len(split)):
        batch = split.batch(torch.tensor([index]))
        (output,) = task.run(model, batch)
        labels = batch.second.inputs["input_ids"][0]
        losses.append(-output.logits[0].double().log_softmax(dim=-1)[torch.arange(len(labels)), labels])
    return losses


@pytest.mark.parametrize("objective", ["map", "elbo"])
def test_strength_1_is_bayes_rule_where_the_loss_is_a_mean_over_tokens(translation, monkeypatch, objective):
    """Compares with the dense sum: minus the log-likelihood of all tokens of all pairs, and the prior's term once."""
    task, split, validation = translation
    losses, used = [], {}

    def kept(trained, split, loss, settings, **others):
        used.update(model=trained, loss=loss)

    monkeypatch.setattr("nasopt.methods.bayesian.aligned.train", kept)
    torch.manual_seed(0)
    model = task.load_model().eval()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    variances = {name: torch.full_like(w, 1e-3) for name, w in weights.items()}
    prior = diagonal({name: w + 0.1 for name, w in weights.items()}, variances)
    names = {name: name for name in weights}
    for strength in (0.0, 1.0):
        how = StudentTraining(objective, TrainingConfig(), strength)
        arguments = {"teacher": model, "device": torch.device("cpu"), "seed": 0}
        train_student(model, Aligned(model, prior, names, {}), how, task, (split, validation), **arguments)
        used["model"].eval()
        with torch.no_grad():
            torch.manual_seed(1)  # elbo draws weights
            losses.append(float(used["loss"](used["model"], split.batch(torch.arange(len(split))))))
    tokens = _token_losses(task, model, split)
    terms = sum(map(len, tokens))
    assert terms > 3 * len(split)
    dense = sum(0.1**2 / 1e-3 / 2 * w.numel() for w in weights.values())
    if objective == "elbo":
        ratio = LARGEST_INITIAL_VARIANCE / 1e-3
        dense += sum((ratio - 1 - math.log(ratio)) / 2 * w.numel() for w in weights.values())
    else:
        assert losses[0] * terms == pytest.approx(float(torch.cat(tokens).sum()), rel=1e-4)
    assert (losses[1] - losses[0]) * terms == pytest.approx(dense, rel=1e-3)


def test_a_mean_loss_counts_every_token_once(translation):
    """Short pairs do not count more than long ones, whatever batches they are in."""
    task, split, _ = translation
    torch.manual_seed(0)
    model = task.load_model().eval()
    expected = float(torch.cat(_token_losses(task, model, split)).mean())
    assert len({int(length) for length in task.loss_terms(split)}) > 1
    assert mean_loss(task, model, split, torch.device("cpu")) == pytest.approx(expected, rel=1e-5)
