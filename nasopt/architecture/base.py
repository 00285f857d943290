"""The shape of a candidate, as data. No torch here: samplers and reports read it too.

The genotype of a trial is a flat set of Optuna parameters: ``layer_<i>`` in {0, 1}, ``heads_<i>`` in 0..H, ``ffn_<i>``
in steps of :data:`FFN_STEP`, ``precision`` and ``training``. It holds *counts*. An :class:`Architecture` also says
*which* heads and neurons of the base model were kept, so that a child can inherit its parent's weights and get back
from the base model what the parent lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeAlias, get_args

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8", "int4"]

Training: TypeAlias = Literal["none", "finetune", "distill"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

TRAININGS: tuple[Training, ...] = get_args(Training)


class CandidateArchitecture(Protocol):
    """What every kind of candidate says of its shape: an encoder's layers, or a chain of cells."""

    @property
    def precision(self) -> Precision:
        """In which its weights are stored."""

    def with_precision(self, precision: Precision) -> Self:
        """The same shape, stored otherwise."""

    def to_json(self) -> str:
        """Everything, for :func:`read_architecture`."""

    def brief(self) -> str:
        """The shape in a few words, without the precision."""

    def in_words(self, base: EncoderShape) -> str:
        """The shape on one line, beside the base model's."""

    def table(self, base: EncoderShape) -> tuple[list[str], list[list[str]]]:
        """Part by part: headings, and a row for each part."""

    def summary(self, base: EncoderShape) -> dict[str, Any]:
        """The shape as a small JSON object."""


@dataclass(frozen=True)
class EncoderShape:
    """The base model's shape: what there is to remove."""

    num_layers: int
    num_heads: int
    ffn_size: int
    hidden_size: int

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads
