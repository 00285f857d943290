"""The kernels of one forward pass of a BERT-like encoder, with their arithmetic and their memory traffic.

This module knows no device and no time. A runtime decides which operations become one kernel (:class:`Fusion`); a
device and fitted constants turn kernels into milliseconds (:mod:`nasopt.measurement.predicted.model`).

Notation: `b` sequences of `s` tokens, `m = b * s` tokens, hidden size `h`, `n` heads of size `d`, FFN width `f`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Kind: TypeAlias = Literal["matmul", "attention", "stream"]
KINDS: tuple[Kind, ...] = ("matmul", "attention", "stream")


@dataclass(frozen=True)
class LayerShape:
    """One encoder layer, as it is after pruning. Without heads, or without neurons, a block is its bias alone.

    Args:
        heads: Attention heads.
        head_size: The size of each head.
        ffn_size: Neurons of the feed-forward block.
    """

    heads: int
    head_size: int
    ffn_size: int


@dataclass(frozen=True)
class Workload:
    """One forward pass of an encoder of layers.

    Args:
        layers: The encoder layers; they may differ.
        hidden_size: The width of the residual stream.
        sequence_length: Tokens in each sequence, padding included.
        batch_size: The number of sequences.
    """

    layers: tuple[LayerShape, ...]
    hidden_size: int
    sequence_length: int
    batch_size: int

    @classmethod
    def uniform(
        cls, layers: int, hidden_size: int, heads: int, head_size: int, ffn_size: int, *, length: int, batch: int
    ) -> Self:
        """`layers` equal layers."""
        return cls((LayerShape(heads, head_size, ffn_size),) * layers, hidden_size, length, batch)

    @property
    def tokens(self) -> int:
        return self.batch_size * self.sequence_length


@dataclass(frozen=True)
class Fusion:
    """The operations that a runtime merges into one kernel.

    Args:
        qkv: Whether query, key and value projections are one matrix product.
        attention: Whether scores, softmax and context are one kernel that writes no scores.
        epilogue: Whether bias and activation are done where a matrix product writes its result.
        norm_kernels: The number of kernels of one residual addition with its layer norm.
    """

    qkv: bool
    attention: bool
    epilogue: bool
    norm_kernels: int


@dataclass(frozen=True)
class Kernel:
    """One kernel, or several equal ones.

    Args:
        name: The operation of the model, for people.
        kind: `matmul`: `products` times an `rows x depth` by `depth x columns` product. `attention`: `products` fused
            heads of `rows` tokens and head size `depth`. `stream`: reads and writes, next to no arithmetic.
        products: Independent products, or heads.
        rows: Rows of each result.
        columns: Columns of each result.
        depth: Length of each inner product.
        weights: Elements of parameters that are read.
        activations: Elements of activations that are read or written.
        count: The number of these kernels in the pass.
    """

    name: str
    kind: Kind
    products: int
    rows: int
    columns: int
    depth: int
    weights: int
    activations: int
    count: int = 1

    @property
    def flops(self) -> int:
        """Floating-point operations of one such kernel; a multiply-add is 2, a fused head has two products."""
        if self.kind == "stream":
            return 0
        return (4 if self.kind == "attention" else 2) * self.products * self.rows * self.columns * self.depth


@dataclass(frozen=True)
class KernelTable:
    """Kernels of many passes, column by column; every field has shape `(n_kernels,)`.

    Args:
        passes: Index of the pass that each kernel belongs to.
        kind: Index in :data:`KINDS`.
    """

    passes: NDArray[np.int64]
    kind: NDArray[np.int64]
    products: Floats
    rows: Floats
    columns: Floats
    depth: Floats
    weights: Floats
    activations: Floats
    flops: Floats
    count: Floats

    @classmethod
    def of(cls, passes: Sequence[Sequence[Kernel]]) -> Self:
        """The kernels of each pass, one after the other."""
        every = [(index, kernel) for index, kernels in enumerate(passes) for kernel in kernels]
        columns = {
            field.name: np.array([getattr(kernel, field.name) for _, kernel in every], float)
            for field in fields(cls)
            if field.name not in ("passes", "kind")
        }
        kinds = np.array([KINDS.index(kernel.kind) for _, kernel in every])
        return cls(np.array([index for index, _ in every]), kinds, **columns)


def kernels(workload: Workload, fusion: Fusion) -> list[Kernel]:
    """Every kernel of one pass, from the embeddings to the classification head."""
    tokens, hidden, batch = workload.tokens, workload.hidden_size, workload.batch_size
    result = [stream("embeddings", 5 * tokens * hidden)]
    for shape, count in Counter(workload.layers).items():
        result += [replace(kernel, count=count) for kernel in _layer(workload, shape, fusion)]
    result += matmul("pooler", batch, hidden, hidden, fusion)
    result += matmul("head", batch, hidden, 2, fusion)
    return result


def _layer(workload: Workload, shape: LayerShape, fusion: Fusion) -> Iterator[Kernel]:
    tokens, hidden, width = workload.tokens, workload.hidden_size, shape.heads * shape.head_size
    norm = 4 * tokens * hidden // fusion.norm_kernels + tokens * hidden * (fusion.norm_kernels - 1)
    if width:
        projections = matmul("qkv", tokens, hidden, 3 * width if fusion.qkv else width, fusion)
        yield from projections * (1 if fusion.qkv else 3)
        yield from _attention(workload, shape, fusion)
        yield from matmul("attention output", tokens, width, hidden, fusion)
    yield from [stream("attention norm", norm)] * fusion.norm_kernels
    if shape.ffn_size:
        yield from matmul("ffn up", tokens, hidden, shape.ffn_size, fusion)
        if not fusion.epilogue:
            yield stream("activation", 2 * tokens * shape.ffn_size)
        yield from matmul("ffn down", tokens, shape.ffn_size, hidden, fusion)
    yield from [stream("ffn norm", norm)] * fusion.norm_kernels


def _attention(workload: Workload, shape: LayerShape, fusion: Fusion) -> Iterator[Kernel]:
    length, size = workload.sequence_length, shape.head_size
    heads = workload.batch_size * shape.heads
    vectors, scores = heads * length * size, heads * length * length
    if fusion.attention:
        yield Kernel("attention", "attention", heads, length, length, size, 0, 4 * vectors)
        return
    yield Kernel("scores", "matmul", heads, length, length, size, 0, 2 * vectors + scores)
    yield stream("softmax", 2 * scores)
    yield Kernel("context", "matmul", heads, length, size, length, 0, 2 * vectors + scores)
    if not fusion.qkv:
        yield stream("transposes", 8 * vectors)


def matmul(name: str, rows: int, depth: int, columns: int, fusion: Fusion) -> list[Kernel]:
    """A linear layer: one kernel, and another for its bias where the runtime does not fuse it."""
    product = Kernel(name, "matmul", 1, rows, columns, depth, depth * columns, rows * (depth + columns))
    return [product] if fusion.epilogue else [product, stream(f"{name} bias", 2 * rows * columns)]


def stream(name: str, activations: int) -> Kernel:
    """A kernel that only moves elements of activations, as many as `activations` says."""
    return Kernel(name, "stream", 1, 0, 0, 0, 0, activations)
