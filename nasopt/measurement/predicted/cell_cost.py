"""The kernels of one forward pass of a chain of cells (AdaBERT's students).

A convolution over the tokens is a matrix product with `size * h` inner elements; a pooling, a mask and a norm only move
activations. The constants were fitted to no latency of this kind, so the error of such a prediction is not known, and
every one of them says so.

Notation: `b` texts of `s` tokens, `m = b * s` tokens, hidden size `h`, embedding rank `r`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nasopt.architecture.cells import KERNELS, PARAMETER_FREE, CellArchitecture, Operation
from nasopt.measurement.predicted.transformer_cost import Fusion, Kernel, matmul, stream

BEYOND = "chains of cells, whose error is not known"


@dataclass(frozen=True)
class CellWorkload:
    """One forward pass of a chain of cells.

    Args:
        architecture: The student's; its precision does not matter here.
        sequence_length: Tokens in each text, padding included.
        batch_size: The number of texts.
    """

    architecture: CellArchitecture
    sequence_length: int
    batch_size: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.sequence_length


def cell_kernels(workload: CellWorkload, fusion: Fusion) -> list[Kernel]:
    """Every kernel of one pass, from the embeddings to the classifier.

    A runtime that fuses bias and activation into products is taken to make one kernel of neighbouring operations that
    only move activations, too.
    """
    architecture, tokens = workload.architecture, workload.tokens
    hidden = architecture.hidden_size
    result = list(_embeddings(workload, fusion))
    for index in architecture.kept_cells:
        result += _cell(architecture.cells[index], tokens, hidden, fusion)
    result.append(stream("mean over tokens", tokens * hidden + workload.batch_size * hidden))
    result += matmul("classifier", workload.batch_size, hidden, 2, fusion)
    return result


def _embeddings(workload: CellWorkload, fusion: Fusion) -> Iterator[Kernel]:
    architecture, tokens = workload.architecture, workload.tokens
    hidden, rank = architecture.hidden_size, architecture.embedding_rank
    yield stream("embeddings", 2 * tokens * (rank or hidden))
    if rank is not None:
        product = matmul("embedding projection", tokens, rank, hidden, fusion)
        yield product[0]  # it has no bias
    yield stream("embedding norm", 2 * tokens * hidden)


def _cell(operation: Operation, tokens: int, hidden: int, fusion: Fusion) -> Iterator[Kernel]:
    """A mask is read and a result written; where nothing is fused, each step reads what the one before has written."""
    values = tokens * hidden
    if operation not in PARAMETER_FREE:
        if not fusion.epilogue:
            yield stream("mask", 2 * values)
        yield from matmul(operation, tokens, KERNELS[operation].size * hidden, hidden, fusion)
        if not fusion.epilogue:
            yield stream("activation", 2 * values)
        yield stream("norm", 2 * values)
    elif fusion.epilogue:
        yield stream(operation, 2 * values)
    else:
        # mask, padding, the three tokens in two steps, and a mask or a division
        yield from (stream(operation, moved * values) for moved in (2, 2, 3, 3, 2))
