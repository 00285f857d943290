"""The shape of a convolutional student, as data (METHODS.md section 3, AdaBERT).

No torch here: samplers and reports read it too.

A student is a chain of cells, each with one operation. This module says what an operation costs;
:mod:`nasopt.models.modeling_adabert` has its layers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nasopt.architecture.base import EncoderShape, Precision

Operation: TypeAlias = Literal["conv1", "conv3", "conv5", "dilconv3", "maxpool", "avgpool", "skip"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
PARAMETER_FREE: tuple[Operation, ...] = ("maxpool", "avgpool", "skip")
"""Students that consist of these alone are bags of words: the search has collapsed."""

KIND = "cells"


@dataclass(frozen=True)
class Kernel:
    """The tokens that an operation sees: how many, and how far apart."""

    size: int
    dilation: int = 1


KERNELS: dict[Operation, Kernel] = {
    "conv1": Kernel(1),
    "conv3": Kernel(3),
    "conv5": Kernel(5),
    "dilconv3": Kernel(3, dilation=2),
    "maxpool": Kernel(3),
    "avgpool": Kernel(3),
    "skip": Kernel(1),
}


@dataclass(frozen=True)
class CellArchitecture:
    """The shape of a student.

    Args:
        cells: the operation of each cell of the chain, those that are skipped included.
        hidden_size: H, the width of all cells.
        embedding_rank: r of an embedding that is stored as two matrices, vocabulary x r and r x H; None for one matrix.
        precision: the one in which the weights are stored.

    Raises:
        ValueError: an operation that does not exist, or a size below 1.
    """

    cells: tuple[Operation, ...]
    hidden_size: int
    embedding_rank: int | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for index, operation in enumerate(self.cells):
            if operation not in OPERATIONS:
                raise ValueError(f"cell {index} cannot be {operation!r}; the operations are {', '.join(OPERATIONS)}")
        for name, size in (("hidden_size", self.hidden_size), ("embedding_rank", self.embedding_rank)):
            if size is not None and size < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {size}")

    @property
    def kept_cells(self) -> tuple[int, ...]:
        """Indices of the cells that the frozen model has: those that are not skipped."""
        return tuple(index for index, operation in enumerate(self.cells) if operation != "skip")

    def student_index(self, s: int) -> int:
        """The frozen model's index of the supernet's hidden state `s` (0: the embeddings, s: after cell s - 1).

        Raises:
            ValueError: the supernet has no such hidden state.
        """
        if not 0 <= s <= len(self.cells):
            raise ValueError(f"hidden state {s} does not exist; {len(self.cells)} cells have 0 to {len(self.cells)}")
        return sum(operation != "skip" for operation in self.cells[:s])

    def with_precision(self, precision: Precision) -> CellArchitecture:
        return replace(self, precision=precision)

    def to_params(self) -> dict[str, int | str]:
        """The genotype as Optuna parameters."""
        return {f"cell_{index}": operation for index, operation in enumerate(self.cells)}

    def to_json(self) -> str:
        return json.dumps({"kind": KIND, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CellArchitecture:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ValueError: it is the JSON of another kind of architecture.
        """
        document: dict[str, Any] = json.loads(text)
        if document.pop("kind", None) != KIND:
            raise ValueError(f"not an architecture of cells: {text[:80]}")
        return cls(**document | {"cells": tuple(document["cells"])})

    def brief(self) -> str:
        """The shape in a few words, for example "conv3 skip avgpool, 256 wide"."""
        rank = "" if self.embedding_rank is None else f", embedding rank {self.embedding_rank}"
        return f"{' '.join(self.cells) or 'no cells'}, {self.hidden_size} wide{rank}"

    def in_words(self, base: EncoderShape) -> str:
        return f"{self.brief()} (base: {base.num_layers} layers, {base.hidden_size} wide)"

    def table(self, base: EncoderShape) -> tuple[list[str], list[list[str]]]:
        rows = [
            [str(index), operation, f"{operation_parameters(operation, self.hidden_size):,}"]
            for index, operation in enumerate(self.cells)
        ]
        return ["cell", "operation", "parameters"], rows

    def summary(self, base: EncoderShape) -> dict[str, Any]:
        sizes = {"layers": base.num_layers, "hidden_size": base.hidden_size}
        return {**asdict(self), "cells": list(self.cells), "base": sizes}


def operation_flops(operation: Operation, hidden_size: int) -> int:
    """FLOPs of an operation for one token.

    They are counted as `torch.utils.flop_counter` does: a multiply-add is 2 FLOPs, and only matrix products and
    convolutions count (no bias, activation, norm or pooling; padding counts as tokens).
    """
    return 0 if operation in PARAMETER_FREE else 2 * KERNELS[operation].size * hidden_size**2


def operation_parameters(operation: Operation, hidden_size: int) -> int:
    """Parameters of an operation: kernel, bias, and the norm's scale and shift."""
    return 0 if operation in PARAMETER_FREE else KERNELS[operation].size * hidden_size**2 + 3 * hidden_size


def all_operation_flops(hidden_size: int) -> NDArray[np.int64]:
    """:func:`operation_flops` of the seven operations, shape (7,), in the order of :data:`OPERATIONS`."""
    return np.array([operation_flops(operation, hidden_size) for operation in OPERATIONS], dtype=np.int64)


def all_operation_parameters(hidden_size: int) -> NDArray[np.int64]:
    """:func:`operation_parameters` of the seven operations, shape (7,), in the order of :data:`OPERATIONS`."""
    return np.array([operation_parameters(operation, hidden_size) for operation in OPERATIONS], dtype=np.int64)


def model_flops(architecture: CellArchitecture, num_labels: int, batch_size: int, tokens: int) -> int:
    """FLOPs of one forward pass of the frozen model, classifier included, counted as :func:`operation_flops` does."""
    hidden_size = architecture.hidden_size
    per_token = sum(operation_flops(operation, hidden_size) for operation in architecture.cells)
    per_token += 2 * (architecture.embedding_rank or 0) * hidden_size
    return batch_size * (tokens * per_token + 2 * hidden_size * num_labels)


def embedding_parameters(architecture: CellArchitecture, vocab_size: int) -> int:
    """Parameters of the embedding: its table or its two factors, and its norm."""
    hidden_size, rank = architecture.hidden_size, architecture.embedding_rank
    table = vocab_size * hidden_size if rank is None else (vocab_size + hidden_size) * rank
    return table + 2 * hidden_size


def model_parameters(architecture: CellArchitecture, vocab_size: int, num_labels: int) -> int:
    """Parameters of the frozen model, embedding and classifier included."""
    hidden_size = architecture.hidden_size
    cells = sum(operation_parameters(operation, hidden_size) for operation in architecture.cells)
    return embedding_parameters(architecture, vocab_size) + cells + (hidden_size + 1) * num_labels
