"""Refits the output projections of a cut encoder, so that each block writes what the base model's block wrote.

Removing heads or neurons leaves the sum over the others. The units that are gone correlate with those that stay, so
part of their output can be given back without any training: by linear least squares for each output projection, one
block after the other, on the inputs that the smaller model itself gives it. Kwon et al. 2022, "A fast post-training
pruning framework for transformers", section 3.3, refit a scale for each unit; this module refits whole matrices, with a
penalty on their change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

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
    weights: Sequence[Tensor] | None = None,
    ridge: float = 1e-3,
    forward: Forward = lambda model, inputs: model(**inputs),
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Refits, in place, every output projection of `model`: that of attention, then that of the FFN, layer by layer.

    Minimises `sum_t w_t ||x_t W' + b - y_t||^2 + ridge * s * ||(W', b) - (W'_0, b_0)||^2` over the real tokens t, where
    x_t is the input of the projection in `model`, y_t the output of its counterpart in `base_model`, w_t the weight of
    the token, and s the mean over the inputs i, and the constant 1 of the bias, of `sum_t w_t x_ti^2`.

    Args:
        model: an encoder cut out of `base_model`.
        base_model: the full-size model, on the same device; not changed.
        layers: the layers of the base model that `model` keeps (:attr:`Architecture.kept_layers`).
        batches: inputs of both models, with their `attention_mask`, on their device.
        weights: for each layer of the base model the weights of the tokens at the projection of its attention and at
            that of its FFN, shape (tokens,) each, as :func:`nasopt.models.sensitivity.token_weights.token_weights`
            gives them for these batches; None: all tokens count the same.
        ridge: the weight of the penalty on the change, above 0.
        forward: runs either model on a batch.
        on_step: called with the number of projections that are done, and the number of all.
    """
    parts = encoder_family_of(model).parts
    names = (parts.attention_output, parts.down)
    kept, full = list(parts.encoder_layers(model)), parts.encoder_layers(base_model)
    model.eval(), base_model.eval()
    replaced = [full[index].get_submodule(name) for index in layers for name in names]
    targets = _outputs(base_model, replaced, batches, forward)
    walks = [_Walk(model, inputs, forward) for inputs in batches]
    for done, (layer, index) in enumerate(zip(kept, layers, strict=True)):
        for second, name in enumerate(names):
            projection = layer.get_submodule(name)
            if isinstance(projection, nn.Linear):
                inputs = (walk.inputs_of(projection) for walk in walks)
                counting = None if weights is None else weights[2 * index + second]
                _refit(projection, inputs, targets[2 * done + second], ridge, counting)
            on_step(2 * done + second + 1, 2 * len(kept))
        for walk in walks:
            walk.pass_by(layer)


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


class _Walk:
    """One batch on its way through a model whose layers are refitted from the first to the last.

    Layers that are done are not run again: their `forward` gives the output of the last of them.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor], forward: Forward) -> None:
        self._run = partial(forward, model, inputs)
        self._mask = inputs["attention_mask"].bool()
        self._done: list[nn.Module] = []
        self._output: Any = None

    def inputs_of(self, module: nn.Module) -> Tensor:
        """The inputs of a module for the real tokens, shape (tokens, inputs)."""
        seen: list[Tensor] = []

        def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.append(given[0])
            raise _Stop

        self._run_until(module.register_forward_pre_hook(look))
        return seen[0][self._mask].float()

    def pass_by(self, layer: nn.Module) -> None:
        """Runs a layer for the last time, which follows those that were passed by."""

        def keep(_: nn.Module, __: tuple[Tensor, ...], output: Any) -> None:
            self._output = output
            raise _Stop

        self._run_until(layer.register_forward_hook(keep))
        self._done.append(layer)

    def _run_until(self, hook: torch.utils.hooks.RemovableHandle) -> None:
        with _removed([hook]), suppress(_Stop):
            for layer in self._done:
                layer.forward = lambda *_, **__: self._output
            try:
                self._run()
            finally:
                for layer in self._done:
                    del layer.forward  # uncovers the method of its class


@contextmanager
def _removed(hooks: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Removes the hooks after the block."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refit(
    projection: nn.Linear, batches: Iterator[Tensor], target: Tensor, ridge: float, weights: Tensor | None = None
) -> None:
    """Solves the normal equations, in float64, for the change of weight and bias."""
    weight, bias = projection.weight, projection.bias
    size = weight.shape[1] + 1
    gram = torch.zeros((size, size), dtype=torch.float64, device=weight.device)
    right = torch.zeros((size, weight.shape[0]), dtype=torch.float64, device=weight.device)
    roots = target.new_ones(len(target)) if weights is None else weights.to(target).sqrt()
    start = 0
    for inputs in batches:
        rows = slice(start, start + len(inputs))
        start = rows.stop
        missing = target[rows] - nn.functional.linear(inputs, weight, bias)
        extended = torch.cat([inputs, inputs.new_ones((len(inputs), 1))], dim=1) * roots[rows, None]
        gram += (extended.T @ extended).double()
        right += (extended.T @ (missing * roots[rows, None])).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    change = torch.linalg.solve(gram, right)
    weight.add_(change[:-1].T.to(weight))
    if bias is not None:
        bias.add_(change[-1].to(bias))
