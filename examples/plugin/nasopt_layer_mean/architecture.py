"""The shape of a candidate, as data. No torch here: it is imported where a method is only listed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import EncoderShape, Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND = "layer-mean"
"""Name of the entry point in the group `nasopt.architectures`, and what stands under `kind` in a candidate's JSON."""


@dataclass(frozen=True)
class LayerMean:
    """The first `depth` encoder layers; the output is the average of the hidden states 0 to `depth`."""

    depth: int
    precision: Precision = "fp32"

    def with_precision(self, precision: Precision) -> LayerMean:
        return replace(self, precision=precision)

    def to_json(self) -> str:
        return json.dumps({"kind": KIND, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> LayerMean:
        document = json.loads(text)
        return cls(document["depth"], document["precision"])

    def brief(self) -> str:
        return f"mean of {self.depth + 1} hidden states"

    def in_words(self, base: EncoderShape) -> str:
        return f"first {self.depth} of {base.num_layers} layers, {self.brief()}"

    def table(self, base: EncoderShape) -> tuple[list[str], list[list[str]]]:
        rows = [[str(layer), "kept" if layer < self.depth else "removed"] for layer in range(base.num_layers)]
        return ["layer", ""], rows

    def summary(self, base: EncoderShape) -> dict[str, Any]:
        return {**asdict(self), "base": {"layers": base.num_layers}}

    def build(self, base_model: PreTrainedModel) -> PreTrainedModel:
        """A classifier of this shape with the weights of the base model, which stays as it is."""
        from nasopt_layer_mean.modeling_layer_mean import LayerMeanConfig, LayerMeanForSequenceClassification

        values = {name: value for name, value in base_model.config.to_dict().items() if name != "model_type"}
        model = LayerMeanForSequenceClassification(LayerMeanConfig(**{**values, "num_hidden_layers": self.depth}))
        weights = base_model.state_dict()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        return model.eval()
