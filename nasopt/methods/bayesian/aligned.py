"""Students aligned to their teacher's posterior: their starts and their training.

METHODS.md, section 5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import TrainingConfig
from nasopt.methods.bayesian.trajectory import Schedule, Trajectory, load_posterior
from nasopt.methods.bayesian.variational import Variational, elbo_loss, map_loss
from nasopt.models.families import encoder_shape
from nasopt.models.layers import partition
from nasopt.models.posterior import Posterior, Structure, condition, distance_to_zero, on_device
from nasopt.models.prior import Prior
from nasopt.models.surgery import cut
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Examples, evaluation_batches
from nasopt.training.loop import LossFunction, StepCallback, TrainingResult, train

Objective: TypeAlias = Literal["ce", "map", "elbo", "hinton"]
Start: TypeAlias = Literal["uniform", "initial"]

UNIFORM_BOUND = 0.08
"""The bound of the published random start, Uniform[-0.08, 0.08]."""


@dataclass(frozen=True)
class Aligned:
    """A student before training.

    Attributes:
        model: the student, with the layers that stay, at the mean of its prior: w_0 = m_v.
        prior: the prior over its weights, by their names in the base model.
        names: the names of its weights, by their names in the base model.
        distances: for each layer, in the order of removal, the distance from zero to the posterior of what it writes:
            m_1^T S_11^-1 m_1 over the number of weights (about 1 for a draw around zero); None for `point`.
    """

    model: PreTrainedModel
    prior: Posterior
    names: dict[str, str]
    distances: dict[str, float | None]


def align(base_model: PreTrainedModel, path: Path, structure: Structure, removed: Sequence[int]) -> Aligned:
    """Removes layers one after another, by the theorem each time.

    Args:
        base_model: full-size; not changed.
        path: the file of its posterior (see :mod:`nasopt.methods.bayesian.trajectory`).
        structure: the structure of the covariance.
        removed: layers that go, from the decoder if there is one.

    Raises:
        CheckpointError: the posterior cannot be read.
    """
    posterior = load_posterior(path, structure)
    distances: dict[str, float | None] = {}
    for layer in removed:
        split = partition(base_model, layer)
        distance = distance_to_zero(posterior, split.zeroed)
        weights = sum(posterior.mean[name].numel() for name in split.zeroed)
        distances[str(layer)] = None if distance is None else distance / weights
        posterior = condition(posterior, split.zeroed, split.removed)
    model = copy.deepcopy(base_model)
    base_names = {id(parameter): name for name, parameter in model.named_parameters()}
    _load(model, posterior)
    shape = encoder_shape(model.config)
    student = cut(model, Architecture.masked(shape, [int(i not in removed) for i in range(shape.num_layers)]))
    names = {base_names[id(parameter)]: name for name, parameter in student.named_parameters()}
    return Aligned(student, posterior, names, distances)


def zeroed_model(base_model: PreTrainedModel, aligned: Aligned, removed: Sequence[int]) -> PreTrainedModel:
    """The full-size model in which the removed layers write nothing, which the theorem is about.

    In pre-norm models it is the student itself; in post-norm ones the LayerNorms of the layers stay.
    """
    model = copy.deepcopy(base_model)
    _load(model, aligned.prior)
    with torch.no_grad():
        for layer in removed:
            for name in partition(model, layer).zeroed:
                model.get_parameter(name).zero_()
    return model


@torch.no_grad()
def randomise(model: PreTrainedModel, start: Start, seed: int) -> PreTrainedModel:
    """The control start, in place: nothing of the teacher is left but the architecture.

    Args:
        model: the student.
        start: `uniform`, the published one: all weights from Uniform[-0.08, 0.08], LayerNorms included; `initial`: as
            transformers draws the weights of a new model of this architecture.
        seed: decides the draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if start == "initial":
            model.load_state_dict(type(model)(model.config).state_dict())
        else:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.uniform_(-UNIFORM_BOUND, UNIFORM_BOUND)
    return model


@dataclass(frozen=True)
class StudentTraining:
    """The objective and the settings of a student's training.

    Attributes:
        objective: `ce`: the task's loss alone (the source's); `map` and `elbo`: with the prior; `hinton`: the task's
            loss and soft targets from the teacher.
        settings: epochs, batch size, learning rate and the like.
        prior_strength: factor of the prior's terms; 1 is Bayes' rule.
        temperature, soft_weight: the temperature and the weight of the soft targets in `hinton`.
    """

    objective: Objective
    settings: TrainingConfig
    prior_strength: float = 1.0
    temperature: float = 2.0
    soft_weight: float = 1.0


def train_student(
    model: PreTrainedModel,
    aligned: Aligned | None,
    how: StudentTraining,
    task: Task,
    splits: tuple[Examples, Examples],
    *,
    teacher: PreTrainedModel,
    device: torch.device,
    seed: int,
    on_step: StepCallback | None = None,
) -> tuple[TrainingResult, list[float]]:
    """Trains a student in place.

    Args:
        model: the student.
        aligned: the student with its prior, which only `map` and `elbo` need.
        how: see :class:`StudentTraining`.
        task: the task whose loss is minimised.
        splits: the split to train on, and the one for the losses that are returned.
        teacher: the model that `hinton` distils from.
        device: where the student is trained, and is left.
        seed: decides the order of the examples and the draws.
        on_step: told after each step.

    Returns:
        The result of the training; and the task's loss on the second split, before training and after each epoch.
    """
    train_split, validation = splits
    settings = how.settings
    trained: nn.Module = model
    loss: LossFunction = task.training_loss
    model.to(device)
    losses = [mean_loss(task, model, validation, device)]
    if how.objective in ("map", "elbo"):
        assert aligned is not None
        # The prior says where the weights are to stay; decay would pull them to zero beside it.
        settings = settings.model_copy(update={"weight_decay": 0.0})
        prior = Prior(on_device(aligned.prior, device))
        weight = how.prior_strength / int(task.loss_terms(train_split).sum())
        if how.objective == "map":
            loss = map_loss(loss, prior, weight, aligned.names)
        else:
            trained, loss = Variational(model, prior, aligned.names), elbo_loss(loss, prior, weight)
    elif how.objective == "hinton":
        loss = hinton_loss(task, teacher.to(device).eval(), how.temperature, how.soft_weight)

    def after_epoch(_: Any) -> None:
        losses.append(mean_loss(task, model, validation, device))
        trained.train()

    result = train(
        trained, train_split, loss, settings, device=device, seed=seed, on_step=on_step, on_epoch=after_epoch
    )
    if how.objective == "hinton":
        teacher.to("cpu")
    return result, losses


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student's softened outputs with the teacher's (Hinton et al. 2015, section 2).

    Args:
        student: logits of N examples or tokens, (N, C).
        teacher: logits, (N, C).
        temperature: T_0 > 0 of both.
    """
    targets = functional.softmax(teacher.float() / temperature, dim=-1)
    return functional.cross_entropy(student.float() / temperature, targets)


def soft_binary_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """:func:`soft_cross_entropy` for labels that do not exclude each other: the sum of that of each label's outcomes.

    Args:
        student: logits of N examples, (N, C).
        teacher: logits, (N, C).
        temperature: T_0 > 0 of both.
    """
    targets = (teacher.float() / temperature).sigmoid()
    each = functional.binary_cross_entropy_with_logits(student.float() / temperature, targets, reduction="none")
    return each.sum(dim=-1).mean()


def hinton_loss(task: Task, teacher: nn.Module, temperature: float, soft_weight: float) -> LossFunction:
    """The task's loss at T = 1 and the soft targets' cross-entropy at T_0, a mean over texts or (target) tokens."""
    soft_loss = soft_binary_cross_entropy if task.probabilities == "sigmoid" else soft_cross_entropy

    def loss(model: Any, batch: Any) -> Tensor:
        outputs = task.run(model, batch)
        with torch.no_grad():
            targets = task.run(teacher, batch)
        total = task.loss_of(outputs, batch)
        for output, target in zip(outputs, targets, strict=True):
            side = batch.sides[-1]  # the text whose tokens have logits, if tokens have them
            mine, its = (task.distributions(found.logits, side) for found in (output, target))
            total = total + soft_weight * soft_loss(mine, its, temperature)
        return total

    return loss


@torch.inference_mode()
def mean_loss(task: Task, model: nn.Module, examples: Examples, device: torch.device) -> float:
    """The task's loss on a split, averaged over its examples or target tokens; leaves the model in eval mode."""
    model.eval()
    terms, total = task.loss_terms(examples), 0.0
    for indices in evaluation_batches(examples.lengths):
        total += float(task.training_loss(model, examples.batch(indices).to(device))) * int(terms[indices].sum())
    return total / int(terms.sum())


def collect_further(
    base_model: PreTrainedModel,
    split: Examples,
    loss: Callable[[Any, Any], Tensor],
    settings: TrainingConfig,
    schedule: Schedule,
    folder: Path,
    key: str,
    *,
    device: torch.device,
    seed: int,
    on_step: StepCallback,
) -> None:
    """Trains a copy of a model that came trained a little further, and writes the posterior of its path.

    Args:
        base_model: not changed.
        split: the training split.
        loss: the loss that is minimised.
        settings: the training's settings.
        schedule: decides when the weights are collected.
        folder: the study's artifact folder.
        key: checkpoint of the base model.
        device: where the copy is trained.
        seed: decides the order of the examples.
        on_step: told after each step.
    """
    model = copy.deepcopy(base_model)
    trajectory = Trajectory(model, schedule, folder, settings.epochs)

    def step(done: int, total: int) -> None:
        on_step(done, total)
        trajectory.on_step(done, total)

    train(model, split, loss, settings, device=device, seed=seed, on_step=step)
    trajectory.finish(key)


@torch.no_grad()
def _load(model: nn.Module, posterior: Posterior) -> None:
    """Sets the weights to the posterior's mean; those that it does not have stay."""
    parameters = dict(model.named_parameters())
    for name, mean in posterior.mean.items():
        parameters[name].copy_(mean)
