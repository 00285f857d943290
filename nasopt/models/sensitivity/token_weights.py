"""How much the loss depends on each token of what a block writes: the weights of a least-squares refit.

A refit cannot write at every token what the base model wrote. To second order the loss of a text rises by the sum over
its tokens t of `e_t^T F_t e_t / 2` for errors e_t of a block's output y_t, with the Fisher information
`F_t = g_t g_t^T` and `g_t = dL / dy_t`. This module keeps the size `||g_t||^2` of F_t only, so that errors count at the
tokens that the loss reads, however they are directed, and divides it by the text's sum: a few texts that the model is
least sure of would have almost all the weight otherwise (0.1 to 0.4 % of SST-2's tokens, by the effective number), and
a refit by their weights lost what these gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.models.saliency import LossOfBatch
from nasopt.models.sensitivity.gates import only_activations, unit_blocks

FLOOR = 0.05
"""The part of each weight that is the same for all tokens: none is given up, and the fit stays determined where a
classifier's loss reads one token of each text."""


def token_weights(
    model: PreTrainedModel, batches: Iterable[Any], loss_function: LossOfBatch, *, floor: float = FLOOR
) -> list[Tensor]:
    """The weight of every real token at every output projection: `floor + (1 - floor) ||g||^2 / mean ||g||^2`.

    The mean is over the tokens of the same text, whose weights have a mean of 1 so.

    The model comes back in eval mode, otherwise unchanged.

    Args:
        model: a trained encoder of a supported family, full or cut.
        batches: the batches that `loss_function` takes, on the model's device; each of their `sides` is read in one
            pass, in this order.
        loss_function: the task's loss.
        floor: the part of a weight that is the same for all tokens, from 0 to 1.

    Returns:
        For each layer the weights of the projection of its attention and of its FFN, (tokens,) each, float32 on the
        CPU; tokens in the order of batches, sides, texts and positions. Without tokens, (0,), where the block is empty.

    Raises:
        UnsupportedModelError: the model is not an encoder that can be cut.
        ValueError: a gradient is not finite.
    """
    model.eval()
    projections = [block.projection for layer in unit_blocks(model) for block in layer]
    found: list[list[Tensor]] = [[] for _ in projections]
    with only_activations(model):
        for batch in batches:
            masks = [side.inputs["attention_mask"].bool() for side in batch.sides]
            with _seen_outputs(projections) as outputs:
                loss_function(model, batch).backward()  # type: ignore[no-untyped-call]
            for kept, passes in zip(found, outputs, strict=True):
                kept.extend(_weights(output, mask, floor) for output, mask in zip(passes, masks, strict=bool(passes)))
    return [torch.cat(weights) if weights else torch.zeros(0) for weights in found]


@contextmanager
def _seen_outputs(modules: Sequence[nn.Module | None]) -> Iterator[list[list[Tensor]]]:
    """Inside the block the outputs of each module, (B, T, hidden) for each pass, keep their gradients."""
    outputs: list[list[Tensor]] = [[] for _ in modules]
    with ExitStack() as hooks:
        for module, seen in zip(modules, outputs, strict=True):

            def look(_: nn.Module, __: tuple[Any, ...], output: Tensor, seen: list[Tensor] = seen) -> Tensor:
                if not output.requires_grad:
                    output = output.detach().requires_grad_()
                output.retain_grad()
                seen.append(output)
                return output

            if module is not None:
                hooks.callback(module.register_forward_hook(look).remove)
        yield outputs


def _weights(output: Tensor, mask: Tensor, floor: float) -> Tensor:
    """The weights of the real tokens of one pass, from the gradient of its output (B, T, hidden); shape (tokens,)."""
    gradient = output.grad if output.grad is not None else torch.zeros_like(output)
    if not bool(torch.isfinite(gradient).all()):
        raise ValueError("a gradient is not finite: the weights of the tokens cannot be told")
    lengths = gradient.float().norm(dim=-1) * mask
    lengths = lengths / lengths.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    squares = lengths.square()
    mean = squares.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
    weights = torch.where(mean > 0, floor + (1 - floor) * squares / mean, 1.0)
    return weights[mask].cpu()
