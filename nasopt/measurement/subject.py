"""A candidate as a latency source sees it: models, sizes and texts, without the method or task that they come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasopt.architecture.base import CandidateArchitecture, EncoderShape

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from nasopt.models.onnx import OnnxModel


@dataclass(frozen=True)
class Subject:
    """A candidate whose latency is wanted, beside the base model that it is compared with.

    Attributes:
        artifact: the candidate in its precision: torch modules on the source's device, or an ONNX file.
        vocabulary: the number of tokens that both the candidate and the base model know.
        architecture: its architecture.
        shape: the base model's.
        base_model: the base model in fp32; a source may move it to its own device, and changes nothing else.
        base_key: the key of the base model's checkpoint: equal keys mean equal weights.
        workload: turns a model into the module whose call is timed.
        special_ids: token ids that a batch of random tokens must not have.
        lengths: tokens of each text of the validation split, shape (texts,), int64.
        batch_of: the inputs of the texts at some positions, shape (batch,), padded to the longest, each of shape
            (batch, tokens), on the CPU.
    """

    artifact: PreTrainedModel | OnnxModel
    vocabulary: int
    architecture: CandidateArchitecture
    shape: EncoderShape
    base_model: PreTrainedModel
    base_key: str
    workload: Callable[[nn.Module], nn.Module]
    special_ids: Collection[int]
    lengths: Tensor
    batch_of: Callable[[Tensor], Mapping[str, Tensor]]
