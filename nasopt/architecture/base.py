"""The interface of candidates' shapes of every kind, and the base model's shape.

No torch here: samplers and reports read it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeAlias, get_args

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8", "int8-static", "int4"]

Training: TypeAlias = Literal["none", "finetune", "distill"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

TRAININGS: tuple[Training, ...] = get_args(Training)


class CandidateArchitecture(Protocol):
    """The shape of a candidate of any kind: an encoder's layers, or a chain of cells."""

    @property
    def precision(self) -> Precision:
        """The precision in which its weights are stored."""

    def with_precision(self, precision: Precision) -> Self:
        """The same shape, stored in another precision."""

    def to_json(self) -> str:
        """The whole architecture as JSON, which :func:`read_architecture` reads."""

    def brief(self) -> str:
        """The shape in a few words, without the precision."""

    def in_words(self, base: EncoderShape) -> str:
        """The shape on one line, beside the base model's."""

    def table(self, base: EncoderShape) -> tuple[list[str], list[list[str]]]:
        """The shape part by part: headings, and a row for each part."""

    def summary(self, base: EncoderShape) -> dict[str, Any]:
        """The shape as a small JSON object."""


@dataclass(frozen=True)
class EncoderShape:
    """The base model's shape: the layers, heads and neurons that there are to remove."""

    num_layers: int
    num_heads: int
    ffn_size: int
    hidden_size: int

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads
