"""Torch-Pruning's group Taylor importance at a ladder of shares, each student trained as all others are.

Set up as its documentation does for Hugging Face's BERT (https://github.com/VainF/Torch-Pruning, `examples/LLMs` and
"Pruning transformers"): the query, key and value of each layer named in `num_heads`, whole heads removed
(`prune_num_heads`), ranked over all layers among groups of one kind (`global_pruning`, `isomorphic`; Fang et al. 2024,
arXiv 2407.04616). The hidden size stays: only heads and FFN neurons are cut, as by everything else here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch_pruning
from torch import nn
from transformers import PreTrainedModel

from benchmarks.front.ground import Ground
from benchmarks.front.race import Race
from nasopt.numerics.budget import share_ladder

EXAMPLES = 1024
"""Training examples whose gradients are taken: as many as the fisher method takes."""
RUNGS, LOWEST = 8, 0.1
"""The fisher method's ladder."""
MULTIPLE = 8
"""Neurons stay in multiples of 8, which matrix products are faster with."""


def taylor(race: Race) -> None:
    """The ladder from the top, then the shares between its rungs, as long as there is time."""
    gradients = task_gradients(race.ground)
    for share in shares():
        if not race.left():
            return
        model = prune(race.ground.context.base_model, gradients, share, race.ground)
        race.ground.train(model)
        quality, ratio = race.ground.quality(model), race.ground.measure(model).ratio
        race.found(quality, ratio, lambda model=model: model)


def shares() -> Iterator[float]:
    """The shares of a ladder, then of one with twice the rungs, without end and without the same twice."""
    rungs, done = RUNGS, {1.0}
    while True:
        for share in share_ladder(1.0, LOWEST, rungs + 1)[1:]:
            if all(abs(share - other) > 1e-9 for other in done):
                done.add(share)
                yield share
        rungs *= 2


def task_gradients(ground: Ground) -> list[torch.Tensor]:
    """The gradients of the task's loss, summed over batches of training examples, in the order of the parameters."""
    model, split = copy.deepcopy(ground.context.base_model).eval().requires_grad_(True), ground.context.splits["train"]
    size = ground.context.config.training.batch_size
    for positions in torch.arange(min(EXAMPLES, len(split))).split(size):
        ground.context.task.training_loss(model, split.batch(positions)).backward()
    return [torch.zeros_like(item) if item.grad is None else item.grad for item in model.parameters()]


def prune(base: PreTrainedModel, gradients: list[torch.Tensor], share: float, ground: Ground) -> PreTrainedModel:
    """The base model without a share of 1 - `share` of its heads and of its neurons.

    Over all layers; in every layer alike where a layer would lose all of its heads, because Torch-Pruning does not make
    such a model run. The arguments are those of :func:`pruned`.
    """
    model = pruned(base, gradients, share, ground, over_all_layers=True)
    return model if runs(model) else pruned(base, gradients, share, ground, over_all_layers=False)


def pruned(
    base: PreTrainedModel, gradients: list[torch.Tensor], share: float, ground: Ground, *, over_all_layers: bool
) -> PreTrainedModel:
    """One pruning.

    Args:
        base: a BERT with a classification head; not changed.
        gradients: of its parameters, in their order.
        share: of heads and of neurons that stay.
        ground: gives an example for the tracing of the model.
        over_all_layers: whether units of all layers are ranked together.
    """
    model = copy.deepcopy(base).eval().requires_grad_(True)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    attentions = [module for module in model.modules() if type(module).__name__ == "BertSelfAttention"]
    heads = {
        linear: attention.num_attention_heads
        for attention in attentions
        for linear in (attention.query, attention.key, attention.value)
    }
    pruner = torch_pruning.pruner.BasePruner(
        model,
        ground.context.splits["train"].batch(torch.arange(2)).inputs,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=over_all_layers,
        isomorphic=over_all_layers,
        pruning_ratio=1 - share,
        head_pruning_ratio=1 - share,
        prune_num_heads=True,
        prune_head_dims=False,
        num_heads=heads,
        ignored_layers=[model.classifier, model.bert.embeddings],
        round_to=MULTIPLE,
        output_transform=lambda output: output.logits.sum(),
    )
    pruner.step()
    for attention in attentions:
        attention.num_attention_heads = pruner.num_heads[attention.query]
        attention.all_head_size = attention.query.out_features
    model.zero_grad(set_to_none=True)
    return model


def runs(model: nn.Module) -> bool:
    """Whether every layer has kept a head."""
    attentions = [module for module in model.modules() if type(module).__name__ == "BertSelfAttention"]
    return all(attention.num_attention_heads > 0 for attention in attentions)
