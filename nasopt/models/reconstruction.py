"""Refits the output projections of a cut encoder, so that each block writes what the base model's block wrote.

Removing heads or neurons leaves the sum over the others. The units that are gone correlate with those that stay, so
part of their output can be given back without any training: by linear least squares for each output projection, one
block after the other, on the inputs that the smaller model itself gives it. Kwon et al. 2022, "A fast post-training
pruning framework for transformers", section 3.3, refit a scale for each unit; this module refits whole matrices, with a
penalty on their change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.models.families import encoder_family_of

Forward = Callable[[nn.Module, Mapping[str, Tensor]], object]
"""(model, inputs) -> anything: runs one forward pass, in any precision."""


@torch.no_grad()
def reconstruct(
    model: PreTrainedModel,
    base_model: PreTrainedModel,
    layers: Sequence[int],
    batches: Sequence[Mapping[str, Tensor]],
    *,
    ridge: float = 1e-3,
    forward: Forward = lambda model, inputs: model(**inputs),
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Refits, in place, every output projection of `model`: that of attention, then that of the FFN, layer by layer.

    Minimises `||X W' + b - Y||^2 + ridge * s * ||(W', b) - (W'_0, b_0)||^2` over the real tokens, where X is the input
    of the projection in `model`, Y the output of its counterpart in `base_model`, and s the mean square of X's columns.

    Args:
        model: an encoder cut out of `base_model`.
        base_model: the full-size model, on the same device; not changed.
        layers: the layers of the base model that `model` keeps (:attr:`Architecture.kept_layers`).
        batches: inputs of both models, with their `attention_mask`, on their device.
        ridge: the weight of the penalty on the change, above 0.
        forward: runs either model on a batch.
        on_step: called with the number of projections that are done, and the number of all.
    """
    parts = encoder_family_of(model).parts
    full = parts.encoder_layers(base_model)
    pairs = [
        (layer.get_submodule(name), full[index].get_submodule(name))
        for layer, index in zip(parts.encoder_layers(model), layers, strict=True)
        for name in (parts.attention_output, parts.down)
    ]
    model.eval(), base_model.eval()
    targets = _outputs(base_model, [target for _, target in pairs], batches, forward)
    for done, ((projection, _), target) in enumerate(zip(pairs, targets, strict=True), start=1):
        if isinstance(projection, nn.Linear):
            _refit(projection, _inputs(model, projection, batches, forward), target, ridge)
        on_step(done, len(pairs))


class _Stop(Exception):
    """An exception that ends a forward pass once the wanted input has been seen."""


def _outputs(
    model: nn.Module, modules: Sequence[nn.Module], batches: Sequence[Mapping[str, Tensor]], forward: Forward
) -> list[Tensor]:
    """The outputs of each module for the real tokens of all batches, shape (tokens, hidden)."""
    seen: list[list[Tensor]] = [[] for _ in modules]
    masks = (inputs["attention_mask"].bool() for inputs in batches)
    for inputs, mask in zip(batches, masks, strict=True):
        hooks = [
            module.register_forward_hook(lambda _, __, out, kept=kept, mask=mask: kept.append(out[mask].float()))
            for module, kept in zip(modules, seen, strict=True)
        ]
        with _removed(hooks):
            forward(model, inputs)
    return [torch.cat(kept) for kept in seen]


def _inputs(
    model: nn.Module, module: nn.Module, batches: Sequence[Mapping[str, Tensor]], forward: Forward
) -> Iterator[Tensor]:
    """The inputs of a module for the real tokens of each batch, shape (tokens, inputs)."""
    for inputs in batches:
        seen: list[Tensor] = []

        def look(_: nn.Module, given: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
            seen.append(given[0])
            raise _Stop

        with _removed([module.register_forward_pre_hook(look)]):
            try:
                forward(model, inputs)
            except _Stop:
                yield seen[0][inputs["attention_mask"].bool()].float()


@contextmanager
def _removed(hooks: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Removes the hooks after the block."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refit(projection: nn.Linear, batches: Iterator[Tensor], target: Tensor, ridge: float) -> None:
    """Solves the normal equations, in float64, for the change of weight and bias."""
    weight, bias = projection.weight, projection.bias
    size = weight.shape[1] + 1
    gram = torch.zeros((size, size), dtype=torch.float64, device=weight.device)
    right = torch.zeros((size, weight.shape[0]), dtype=torch.float64, device=weight.device)
    start = 0
    for inputs in batches:
        wanted = target[start : start + len(inputs)]
        start += len(inputs)
        missing = wanted - nn.functional.linear(inputs, weight, bias)
        extended = torch.cat([inputs, inputs.new_ones((len(inputs), 1))], dim=1)
        gram += (extended.T @ extended).double()
        right += (extended.T @ missing).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    change = torch.linalg.solve(gram, right)
    weight.add_(change[:-1].T.to(weight))
    if bias is not None:
        bias.add_(change[-1].to(bias))
