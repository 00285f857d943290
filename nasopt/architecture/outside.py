"""The shape of a model that was made elsewhere, as data: it is compared with a study's candidates, and never cut."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from nasopt.architecture.base import EncoderShape, Precision

KIND = "outside"
"""The name of the kind in an architecture's JSON."""


@dataclass(frozen=True)
class OutsideModel:
    """A model that was made elsewhere.

    Attributes:
        source: its folder, or its id on the hub.
        revision: branch, tag or commit on the hub; None for the main branch.
        new_head: whether a new head is drawn though the checkpoint has one, because that one is of other labels.
    """

    source: str
    revision: str | None = None
    new_head: bool = False


@dataclass(frozen=True)
class OutsideArchitecture:
    """The shape of a model that was made elsewhere.

    Attributes:
        model: where it comes from.
        model_type: Hugging Face's name of its family; for one that nasopt cut, that of the model it was cut from.
        layers: the attention heads and FFN neurons of each layer; empty for a model that is not made of such layers.
        hidden_size: its width.
        head_size: the size of an attention head; 0 where there are none.
        precision: the one in which its weights are stored.
    """

    model: OutsideModel
    model_type: str
    layers: tuple[tuple[int, int], ...]
    hidden_size: int
    head_size: int
    precision: Precision = "fp32"

    def with_precision(self, precision: Precision) -> OutsideArchitecture:
        return replace(self, precision=precision)

    def brief(self) -> str:
        if not self.layers:
            return f"a model of the type {self.model_type}"
        heads, neurons = (sum(counts) for counts in zip(*self.layers, strict=True))
        return f"{len(self.layers)} layers, {heads} heads, {neurons} FFN neurons, hidden size {self.hidden_size}"

    def in_words(self, base: EncoderShape) -> str:
        return f"{self.brief()} (base model: {base.num_layers} layers, hidden size {base.hidden_size})"

    def table(self, base: EncoderShape) -> tuple[list[str], list[list[str]]]:
        rows = [[str(index), str(heads), str(neurons)] for index, (heads, neurons) in enumerate(self.layers)]
        return ["layer", "attention heads", "FFN neurons"], rows

    def summary(self, base: EncoderShape) -> dict[str, Any]:
        layers = [{"heads": heads, "ffn": neurons} for heads, neurons in self.layers]
        sizes = {"layers": base.num_layers, "heads": base.num_heads, "ffn": base.ffn_size}
        shape = {"model_type": self.model_type, "hidden_size": self.hidden_size, "layers": layers}
        return {"precision": self.precision, KIND: shape, "base": sizes}

    def to_json(self) -> str:
        return json.dumps({"kind": KIND, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> OutsideArchitecture:
        document = json.loads(text)
        del document["kind"]
        layers = tuple((heads, neurons) for heads, neurons in document.pop("layers"))
        return cls(model=OutsideModel(**document.pop("model")), layers=layers, **document)
