"""A student beside the projections that compare it with its teacher, and its loss (METHODS.md section 3, AdaBERT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.cells import CellArchitecture
from nasopt.methods.adabert.search_options import SearchOptions
from nasopt.models.modeling_adabert import AdaBertEmbeddings, AdaBertForSequenceClassification
from nasopt.models.searchcell import KDProjections, embeddings_from_teacher, frozen_config, student_config
from nasopt.tasks.batches import Batch
from nasopt.training.losses import layer_matched_mse
from nasopt.training.teacher import Teacher, run_with_hidden

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, labels) -> scalar, averaged over the batch."""


class Distilled(nn.Module):
    """A student and one linear map for each layer pair, which are trained together.

    Args:
        network: a supernet, or a frozen student.
        projections: the maps of the pairs that the student has.
    """

    def __init__(self, network: nn.Module, projections: KDProjections) -> None:
        super().__init__()
        self.network = network
        self.projections = projections

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings, for the training loop."""
        return next(item for item in self.network.modules() if isinstance(item, AdaBertEmbeddings)).word_embeddings


class LayerMatching:
    """`L_KD`: the difference between a student's hidden states and its teacher's, over the layer pairs.

    Args:
        pairs: pairs of hidden states, as the supernet counts them.
        teacher: gives the hidden states `teacher_layers`; None: there is nothing to compare, and L_KD is 0.
        teacher_layers: the teacher's hidden states, ascending.
        student_index: turns the supernet's number of a hidden state into the student's.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        teacher: Teacher | None,
        teacher_layers: Sequence[int],
        student_index: Callable[[int], int] = lambda index: index,
    ) -> None:
        self._students = [student_index(student) for student, _ in pairs]
        self._teachers = [teacher_layers.index(layer) for _, layer in pairs]
        self._teacher = teacher

    def __call__(self, states: Sequence[Tensor], projections: KDProjections, batch: Batch) -> Tensor:
        """The loss, a scalar; `states` are the student's hidden states, (B, T, H) each."""
        if self._teacher is None or not self._students:
            return states[0].new_zeros((), dtype=torch.float32)
        _, hidden = self._teacher(batch)  # (layers, B, T, H_T)
        students = projections([states[index] for index in self._students])
        return layer_matched_mse(students, [hidden[layer] for layer in self._teachers], batch.attention_mask)


class FineTuningLoss:
    """`l1 * L_CE + l2 * L_KD` of a frozen student: nothing is left to choose, so L_eff is constant and left out."""

    def __init__(self, task_loss: TaskLoss, options: SearchOptions, matching: LayerMatching) -> None:
        self._task_loss, self._options, self._matching = task_loss, options, matching

    def __call__(self, model: Distilled, batch: Batch) -> Tensor:
        logits, states = run_with_hidden(model.network, batch)
        task = self._task_loss(logits, batch.labels)
        distilled = self._matching(states, model.projections, batch)
        return self._options.task_weight * task + self._options.distillation_weight * distilled


def fine_tuning(
    architecture: CellArchitecture,
    network: AdaBertForSequenceClassification,
    projections: KDProjections,
    task_loss: TaskLoss,
    options: SearchOptions,
    teacher: Teacher | None,
) -> tuple[Distilled, FineTuningLoss]:
    """The module that a frozen student is trained in, and its loss.

    Args:
        architecture: the student's.
        network: the student.
        projections: the supernet's; those of the pairs that the student still has go on being trained.
        task_loss: the task's loss.
        options: the search's options.
        teacher: gives the hidden states `options.teacher_layers`.
    """
    positions = options.surviving_pairs(architecture)
    pairs = [options.layer_pairs[position] for position in positions]
    left = KDProjections((), 1, 1)
    left.pairs, left.maps = tuple(pairs), nn.ModuleList(projections.maps[position] for position in positions)
    matching = LayerMatching(pairs, teacher, options.teacher_layers, architecture.student_index)
    return Distilled(network, left), FineTuningLoss(task_loss, options, matching)


def bag_of_embeddings(base_model: PreTrainedModel, options: SearchOptions, seed: int) -> Distilled:
    """The control that a search has to beat: no cells at all, from the same embedding as the supernet."""
    architecture = CellArchitecture((), options.hidden_size, options.embedding_rank)
    config = student_config(base_model.config, options.hidden_size, options.embedding_rank)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AdaBertForSequenceClassification(frozen_config(config, architecture))
        projections = new_projections(base_model, options)
    initialise_embedding(network.adabert.embeddings, base_model, options)
    return Distilled(network, projections)


def new_projections(base_model: PreTrainedModel, options: SearchOptions) -> KDProjections:
    """Projections of the supernet's hidden states to the teacher's width, drawn from torch's generator."""
    return KDProjections(options.layer_pairs, options.hidden_size, base_model.config.hidden_size)


def initialise_embedding(embeddings: AdaBertEmbeddings, base_model: PreTrainedModel, options: SearchOptions) -> None:
    """Starts a student's embedding from its teacher's."""
    weight = base_model.get_input_embeddings().weight
    embeddings.load_state_dict(embeddings_from_teacher(weight, options.hidden_size, options.embedding_rank))
