"""The shape of an encoder that was cut, as data. No torch here: samplers and reports read it too.

A genotype (:mod:`nasopt.architecture.genotype`) holds counts. An :class:`Architecture` also says *which* heads and
neurons of the base model were kept, so that a child can inherit its parent's weights and get back from the base model
what the parent lacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasopt.architecture.base import EncoderShape, Precision


@dataclass(frozen=True)
class KeptUnits:
    """Attention heads and FFN neurons that one encoder layer keeps, in the base model's numbering, ascending."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """The parts of the base model that a candidate keeps, and its precision.

    Attributes:
        layers: the units that are kept of each layer of the base model; None where the layer is removed.
        precision: the one in which the weights are stored.
        vocabulary: ids of the tokens that are kept, in the base model's numbering, ascending; None for all.
    """

    layers: tuple[KeptUnits | None, ...]
    precision: Precision = "fp32"
    vocabulary: tuple[int, ...] | None = None

    @classmethod
    def full(cls, shape: EncoderShape, precision: Precision = "fp32") -> Architecture:
        units = KeptUnits(tuple(range(shape.num_heads)), tuple(range(shape.ffn_size)))
        return cls((units,) * shape.num_layers, precision)

    @classmethod
    def masked(cls, shape: EncoderShape, mask: Sequence[int]) -> Architecture:
        """The full layers whose bit is 1 (METHODS.md, section 2: synthesis).

        Raises:
            ValueError: the mask does not have one bit for each layer, or keeps none.
        """
        if len(mask) != shape.num_layers or not set(mask) <= {0, 1}:
            raise ValueError(
                f"the mask {list(mask)} must have {shape.num_layers} bits, one for each layer of the model"
            )
        if not any(mask):
            raise ValueError("the mask keeps no layer: at least one bit must be 1")
        full = cls.full(shape).layers
        return cls(tuple(units if bit else None for units, bit in zip(full, mask, strict=True)))

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """Indices, in the base model, of the encoder layers that are kept."""
        return tuple(index for index, units in enumerate(self.layers) if units is not None)

    def with_precision(self, precision: Precision) -> Architecture:
        return replace(self, precision=precision)

    def contains(self, other: Architecture) -> bool:
        """Whether `other` can be cut out of this architecture (precision does not matter)."""
        if len(self.layers) != len(other.layers):
            return False
        if self.vocabulary is not None and not (
            other.vocabulary is not None and set(other.vocabulary) <= set(self.vocabulary)
        ):
            return False
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if theirs is None:
                continue
            if mine is None:
                return False
            if not set(theirs.heads) <= set(mine.heads) or not set(theirs.neurons) <= set(mine.neurons):
                return False
        return True

    def to_params(self) -> dict[str, int | str]:
        """The genotype's counts as Optuna parameters (without ``training``)."""
        params: dict[str, int | str] = {}
        for index, units in enumerate(self.layers):
            params[f"layer_{index}"] = int(units is not None)
            params[f"heads_{index}"] = len(units.heads) if units else 0
            params[f"ffn_{index}"] = len(units.neurons) if units else 0
        params["precision"] = self.precision
        return params

    def brief(self) -> str:
        kept = [units for units in self.layers if units is not None]
        heads, neurons = sum(len(units.heads) for units in kept), sum(len(units.neurons) for units in kept)
        return f"{len(kept)} layers, {heads} heads, {neurons} FFN neurons{self._tokens_in_words}"

    @property
    def _tokens_in_words(self) -> str:
        return "" if self.vocabulary is None else f", {len(self.vocabulary):,} tokens"

    def in_words(self, base: EncoderShape) -> str:
        kept = [units for units in self.layers if units is not None]
        heads, neurons = sum(len(units.heads) for units in kept), sum(len(units.neurons) for units in kept)
        return (
            f"{len(kept)} of {base.num_layers} layers, "
            f"{heads} of {base.num_layers * base.num_heads} attention heads, "
            f"{neurons:,} of {base.num_layers * base.ffn_size:,} FFN neurons{self._tokens_in_words}"
        )

    def table(self, base: EncoderShape) -> tuple[list[str], list[list[str]]]:
        rows = [
            [str(index), "removed", "-"]
            if units is None
            else [str(index), f"{len(units.heads)} of {base.num_heads}", f"{len(units.neurons)} of {base.ffn_size}"]
            for index, units in enumerate(self.layers)
        ]
        if self.vocabulary is not None:
            rows.append(["vocabulary", f"{len(self.vocabulary):,} tokens", "-"])
        return ["layer", "attention heads", "FFN neurons"], rows

    def summary(self, base: EncoderShape) -> dict[str, Any]:
        layers = [
            None if units is None else {"heads": list(units.heads), "ffn": len(units.neurons)} for units in self.layers
        ]
        sizes = {"layers": base.num_layers, "heads": base.num_heads, "ffn": base.ffn_size}
        tokens = {} if self.vocabulary is None else {"vocabulary": len(self.vocabulary)}
        return {"precision": self.precision, "layers": layers, **tokens, "base": sizes}

    def to_json(self) -> str:
        layers = [
            None if units is None else {"heads": _to_ranges(units.heads), "neurons": _to_ranges(units.neurons)}
            for units in self.layers
        ]
        document: dict[str, Any] = {"layers": layers, "precision": self.precision}
        if self.vocabulary is not None:
            document["vocabulary"] = _to_ranges(self.vocabulary)
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        document = json.loads(text)
        return cls(
            tuple(
                None if item is None else KeptUnits(_from_ranges(item["heads"]), _from_ranges(item["neurons"]))
                for item in document["layers"]
            ),
            document["precision"],
            _from_ranges(document["vocabulary"]) if "vocabulary" in document else None,
        )


def _to_ranges(indices: tuple[int, ...]) -> str:
    """`(0, 1, 2, 5)` as ``"0-2,5"``: short where whole blocks are kept."""
    parts: list[str] = []
    start = previous = None
    for index in (*indices, None):
        if start is None:
            start = previous = index
        elif index is not None and previous is not None and index == previous + 1:
            previous = index
        else:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = previous = index
    return ",".join(part for part in parts if part != "None")


def _from_ranges(text: str) -> tuple[int, ...]:
    indices: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)
