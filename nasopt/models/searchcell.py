"""The network in which AdaBERT searches: every cell computes all operations and mixes them (METHODS.md section 3).

Shapes: B texts, T tokens (padding included), H hidden units, C cells, V words, 7 operations.

Skips and pools have no norm of their own, as their names say. Convolutions end in one, so they take inputs of any
scale, and a chain of any operations can be trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from nasopt.architecture.cells import OPERATIONS, CellArchitecture, Operation
from nasopt.models.families import max_positions
from nasopt.models.modeling_adabert import (
    AdaBertConfig,
    AdaBertEmbeddings,
    AdaBertForSequenceClassification,
    make_operation,
    mean_over_tokens,
    token_weights,
)

FrozenAdaBERT = AdaBertForSequenceClassification
"""METHODS.md's name for the students that :func:`freeze` gives."""


class SearchCell(nn.Module):
    """All seven operations on one input, mixed: `h = sum_i alpha_i * op_i(x)`."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict({name: make_operation(name, hidden_size) for name in OPERATIONS})

    def forward(self, hidden: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """Mixes the operations.

        Args:
            hidden: the cell's input, shape (B, T, H).
            mask: 1 for real tokens, shape (B, T).
            weights: alpha, shape (7,), in the order of :data:`OPERATIONS`.

        Returns:
            Shape (B, T, H); real tokens depend neither on the values at padding nor on the amount of padding.
        """
        real = token_weights(mask, hidden)
        mixed = torch.zeros_like(hidden)
        for name, weight in zip(OPERATIONS, weights.unbind(), strict=True):
            mixed = mixed + weight * self.operations[name](hidden, real)
        return mixed

    def apply_one(self, operation: Operation, hidden: Tensor, mask: Tensor) -> Tensor:
        """Applies one operation alone, at its own cost: (B, T, H) -> (B, T, H)."""
        output: Tensor = self.operations[operation](hidden, token_weights(mask, hidden))
        return output


class SupernetOutput(NamedTuple):
    """Logits (B, labels), and hidden states (B, T, H): the embeddings, then the output of each cell."""

    logits: Tensor
    hidden_states: list[Tensor]


class Supernet(nn.Module):
    """Embedding -> a chain of :class:`SearchCell` -> mean over the real tokens -> linear classifier.

    Args:
        config: the configuration of the students; its `cells` do not matter.
        num_cells: C, the number of cells.
    """

    def __init__(self, config: AdaBertConfig, num_cells: int) -> None:
        super().__init__()
        self.config = config
        self.embeddings = AdaBertEmbeddings(config)
        self.cells = nn.ModuleList(SearchCell(config.hidden_size) for _ in range(num_cells))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.architecture_logits = nn.Parameter(torch.zeros(num_cells, len(OPERATIONS)))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        tau: float = 1.0,
        generator: torch.Generator | None = None,
        operations: Sequence[Operation] | None = None,
    ) -> SupernetOutput:
        """Runs the network, with all operations mixed or along one path.

        In training mode the operations are mixed by `softmax((a + g) / tau)` with fresh Gumbel noise `g` for each cell;
        in evaluation mode by `theta = softmax(a)`, without noise and tau.

        Args:
            input_ids: token ids, shape (B, T).
            attention_mask: 1 for real tokens, shape (B, T).
            tau: the temperature of the mixture, above 0.
            generator: draws the noise, on the CPU whatever the device; None for torch's own.
            operations: one for each cell: only this path is computed, unmixed and without the architecture logits.

        Raises:
            ValueError: `tau` is not positive, or there is not one operation for each cell.
        """
        if operations is not None and len(operations) != len(self.cells):
            raise ValueError(f"`operations` must have one name for each of the {len(self.cells)} cells: {operations}")
        hidden = self.embeddings(input_ids)
        states = [hidden]
        weights = self._mixture(tau, generator) if operations is None else None
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, SearchCell)
            if operations is None:
                assert weights is not None
                hidden = cell(hidden, attention_mask, weights[index])
            else:
                hidden = cell.apply_one(operations[index], hidden, attention_mask)
            states.append(hidden)
        pooled = mean_over_tokens(hidden, token_weights(attention_mask, hidden))
        return SupernetOutput(self.classifier(pooled), states)

    def _mixture(self, tau: float, generator: torch.Generator | None) -> Tensor:
        """The mixture's weights alpha, shape (C, 7)."""
        if not tau > 0:
            raise ValueError(f"`tau` must be above 0, but is {tau}")
        if not self.training:
            return self.theta()
        logits = self.architecture_logits
        noise = gumbel(logits.shape, generator).to(logits.device)
        return torch.softmax((logits + noise) / tau, dim=-1)

    def theta(self) -> Tensor:
        """The probabilities of the operations, `softmax(a)`, shape (C, 7)."""
        return torch.softmax(self.architecture_logits, dim=-1)

    def entropy(self) -> Tensor:
        """The entropy of theta in nats, shape (C,): ln 7 = 1.946 for equal probabilities, 0 for a settled cell."""
        theta = self.theta()
        return -(theta * torch.log_softmax(self.architecture_logits, dim=-1)).sum(dim=-1)

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The architecture logits alone."""
        return [self.architecture_logits]

    def network_parameters(self) -> list[nn.Parameter]:
        """All parameters except the architecture logits."""
        return [parameter for parameter in self.parameters() if parameter is not self.architecture_logits]


def gumbel(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise of a shape, `-log(-log U)` with U uniform on (0, 1), on the CPU."""
    # NOTE: `rand` can give 0, whose logarithm is not finite.
    uniform = torch.rand(tuple(shape), generator=generator, dtype=torch.float64).clamp(min=1e-12)
    return -torch.log(-torch.log(uniform)).float()


def student_config(teacher: PretrainedConfig, hidden_size: int, embedding_rank: int | None = None) -> AdaBertConfig:
    """The configuration of students of a teacher, with its vocabulary and labels but other sizes."""
    return AdaBertConfig(
        vocab_size=teacher.vocab_size,
        hidden_size=hidden_size,
        embedding_rank=embedding_rank,
        pad_token_id=teacher.pad_token_id,
        max_position_embeddings=max_positions(teacher),
        id2label=dict(teacher.id2label),
        label2id=dict(teacher.label2id),
        problem_type=teacher.problem_type,
    )


def frozen_config(config: AdaBertConfig, architecture: CellArchitecture) -> AdaBertConfig:
    """The configuration of a student with an architecture's cells, and the vocabulary and labels of `config`."""
    frozen = copy.deepcopy(config)
    frozen.hidden_size, frozen.embedding_rank = architecture.hidden_size, architecture.embedding_rank
    frozen.cells = [architecture.cells[index] for index in architecture.kept_cells]
    return frozen


def freeze(supernet: Supernet, architecture: CellArchitecture) -> AdaBertForSequenceClassification:
    """The student with one operation in each cell and copies of the supernet's weights, in eval mode and in fp32.

    It has no skipped cells, and none of the other operations.

    Raises:
        ValueError: the architecture's sizes are not the supernet's.
    """
    mine = (len(supernet.cells), supernet.config.hidden_size, supernet.config.embedding_rank)
    theirs = (len(architecture.cells), architecture.hidden_size, architecture.embedding_rank)
    if mine != theirs:
        raise ValueError(f"the supernet's number of cells, width and embedding rank are {mine}, not {theirs}")
    student = AdaBertForSequenceClassification(frozen_config(supernet.config, architecture))
    student.adabert.embeddings.load_state_dict(supernet.embeddings.state_dict())
    for cell, index in zip(student.adabert.cells, architecture.kept_cells, strict=True):
        operation = supernet.get_submodule(f"cells.{index}.operations.{architecture.cells[index]}")
        cell.load_state_dict(operation.state_dict())
    student.classifier.load_state_dict(supernet.classifier.state_dict())
    student.to(supernet.architecture_logits.device).eval()
    return student


def strongest(supernet: Supernet) -> CellArchitecture:
    """The architecture with the most probable operation of each cell."""
    winners = supernet.architecture_logits.detach().argmax(dim=-1).tolist()
    config = supernet.config
    return CellArchitecture(tuple(OPERATIONS[index] for index in winners), config.hidden_size, config.embedding_rank)


def embeddings_from_teacher(weight: Tensor, hidden_size: int, rank: int | None = None) -> dict[str, Tensor]:
    """The state of a student's embedding: its teacher's, projected by principal component analysis.

    The table is centred first: word embeddings share a large mean vector (Mu & Viswanath 2018, "All-but-the-Top"),
    which does not tell words apart, but would take the first direction, and most of each vector's norm before the
    LayerNorm. Where no projection is needed (equal widths and no rank) the table is taken as it is; equal widths with a
    rank keep the teacher's axes, so that hidden states still compare unit by unit.

    Args:
        weight: the teacher's word embeddings, shape (V, H_T).
        hidden_size: H. Units beyond H_T start at 0.
        rank: r of the factors (V, r) and (r, H); None for one table. Their product is the best approximation of rank r
            (Eckart & Young 1936) of the table that `rank=None` gives, up to its mean where the widths are equal.

    Returns:
        The state of :class:`AdaBertEmbeddings`, on the CPU.

    Raises:
        ValueError: the rank is above `hidden_size` or H_T.
    """
    table = weight.detach().cpu().double()
    teacher_size = table.shape[1]
    if rank is not None and not 1 <= rank <= min(hidden_size, teacher_size):
        raise ValueError(f"`rank` must be from 1 to {min(hidden_size, teacher_size)}, but is {rank}")
    state = {"norm.weight": torch.ones(hidden_size), "norm.bias": torch.zeros(hidden_size)}
    if hidden_size == teacher_size and rank is None:
        return {"word_embeddings.weight": table.float(), **state}
    table = table - table.mean(dim=0)
    directions = _principal_directions(table)  # (H_T, H_T)
    if rank is None:
        kept = directions[:, :hidden_size]
        table = nn.functional.pad(table @ kept, (0, hidden_size - kept.shape[1]))
        return {"word_embeddings.weight": table.float(), **state}
    axes = torch.eye(teacher_size, dtype=table.dtype) if hidden_size == teacher_size else directions
    to_hidden = (directions[:, :rank].T @ axes)[:, :hidden_size]  # (r, min(H, H_T))
    to_hidden = nn.functional.pad(to_hidden, (0, hidden_size - to_hidden.shape[1]))  # (r, H)
    state["projection.weight"] = to_hidden.T.float().contiguous()
    return {"word_embeddings.weight": (table @ directions[:, :rank]).float(), **state}


def _principal_directions(centred: Tensor) -> Tensor:
    """The right singular vectors, strongest first, as columns; the largest entry of each is made positive."""
    vectors: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(dims=(1,))
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()


class KDProjections(nn.Module):
    """Learned linear maps, one for each layer pair, from the student's width to the teacher's; identities if equal.

    Args:
        pairs: (student, teacher) indices of hidden states that are compared.
        hidden_size: H, the student's width.
        teacher_size: H_T, the teacher's width.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], hidden_size: int, teacher_size: int) -> None:
        super().__init__()
        self.pairs = tuple((student, teacher) for student, teacher in pairs)
        self.maps = nn.ModuleList(
            nn.Identity() if hidden_size == teacher_size else nn.Linear(hidden_size, teacher_size) for _ in self.pairs
        )

    def forward(self, students: Sequence[Tensor]) -> list[Tensor]:
        """Maps the student's hidden states, one (B, T, H) for each pair in its order, to (B, T, H_T)."""
        return [project(hidden) for project, hidden in zip(self.maps, students, strict=True)]


def check_pairs(pairs: Sequence[tuple[int, int]], num_cells: int, teacher_layers: int) -> None:
    """Refuses layer pairs that do not exist.

    Raises:
        ValueError: an index is out of range; 0 is the embeddings, on both sides.
    """
    for student, teacher in pairs:
        for index, last, whose in ((student, num_cells, "student"), (teacher, teacher_layers, "teacher")):
            if not 0 <= index <= last:
                raise ValueError(
                    f"layer pair {student}-{teacher}: the {whose} has no hidden state {index}, only 0 to {last}"
                )
