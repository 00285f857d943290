"""The elastic base: one training of the base model per study makes its sub-networks good, before any is chosen.

The units of every block stand in the order of their sensitivity, so that the sub-networks of a study are prefixes of
its blocks and share their weights. Each step adds up the gradients of the whole model, of the smallest sub-network and
of some random ones (the sandwich rule), all distilled from the base model as it was (METHODS.md, section 6).

References:
    Hou et al. 2020, "DynaBERT: dynamic BERT with adaptive width and depth" (units sorted, then trained together).
    Yu and Huang 2019, "Universally slimmable networks and improved training techniques" (the sandwich rule).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import TrainingConfig
from nasopt.host.object_store import remove
from nasopt.models.slicing import SlicedModel
from nasopt.training.distillation import LossWeights, distillation_loss
from nasopt.training.loop import train
from nasopt.training.made_once import made_once, origin_of
from nasopt.training.samples import SampleSettings
from nasopt.training.sensitivity import Criterion
from nasopt.training.state import TrainingState, read_state, write_state
from nasopt.training.sub_networks import Cost, SubNetworks, study_sub_networks

if TYPE_CHECKING:
    from nasopt.training.context import Context

FOLDER = "elastic"
"""Below a study's artifact folder."""

_BUDGET = "budget"
"""The name of the budget beside the weights."""

_SLICES = 256
"""Number of sub-networks that are kept ready; the least recently used one gives way."""


@dataclass(frozen=True)
class ElasticSettings:
    """Everything that an elastic base depends on besides the study's base model, data and `[training]`.

    Attributes:
        criterion: orders the units.
        sample: the training examples on which their sensitivity is found.
        cost: what a share of a sub-network is of.
        lowest_share: of the smallest sub-network; where that cannot be reached, the least that can. None for
            :data:`nasopt.numerics.budget.LOWEST_SHARE`.
        epochs: passes over the training split.
        random_prefixes: the number of random sub-networks of each step, besides the largest and the smallest; their
            shares are evenly likely in the logarithm.
        loss: the weights and the temperature of the distillation.
        learning_rate: the largest one of the training; the study's if None.
    """

    criterion: Criterion
    sample: SampleSettings
    cost: Cost
    lowest_share: float | None
    epochs: int
    random_prefixes: int
    loss: LossWeights
    learning_rate: float | None = None


@dataclass(frozen=True)
class ElasticBase:
    """The elastic base of a study.

    Attributes:
        weights: its state dict, in the shapes of the base model, on the CPU.
        budget: examples times passes of its training, each weighted by its share of the base model's FLOPs.
    """

    weights: dict[str, Tensor]
    budget: float


def elastic_base(settings: ElasticSettings, context: Context) -> ElasticBase:
    """The elastic base of a study, trained once and kept in its artifact folder.

    Workers that start together wait for the one that trains it; a training that was killed goes on after its last
    epoch, with the same result. It reads inputs (B, T), B examples of T tokens, in bf16 where that is fast.

    Raises:
        TrainingDivergedError: the loss is not finite.
        UnsupportedModelError: see :func:`nasopt.training.sensitivity.study_sensitivity`.
        DatasetError: there are fewer training examples than the sensitivity needs.
    """
    made_from = _made_from(settings, context)
    folder = context.folder / FOLDER
    state = folder / f"state-{origin_of(made_from)}.safetensors"
    tensors = made_once(folder, "base", made_from, lambda: _trained(settings, context, state))
    remove(state)
    budget = float(tensors.pop(_BUDGET))
    return ElasticBase(tensors, budget)


class _Prefixes:
    """The sub-networks of each step, and what their passes have cost.

    Args:
        model: the model that is trained, on its device.
        networks: the study's sub-networks.
        settings: those of the elastic base.
        context: counts the FLOPs of a pass.
        budget: what the passes of an earlier process have cost.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        networks: SubNetworks,
        settings: ElasticSettings,
        context: Context,
        budget: float = 0.0,
    ) -> None:
        self._model, self._networks, self._context = model, networks, context
        self._lowest = networks.shares(settings.lowest_share, 1)[-1]
        self._count = settings.random_prefixes
        self._whole = Architecture.full(context.shape)
        self._shares: dict[Architecture, float] = {}
        self._slice = lru_cache(_SLICES)(lambda architecture: SlicedModel(model, architecture))
        self.budget = budget

    def __call__(self, batch: Any) -> Iterator[nn.Module]:
        """The whole model, the smallest sub-network and random ones."""
        drawn = (self._lowest ** float(position) for position in torch.rand(self._count))
        smaller = [self._networks.architecture(share) for share in (self._lowest, *drawn)]
        for architecture in (self._whole, *smaller):
            module = self._model if architecture == self._whole else self._slice(architecture)
            self.budget += len(batch.labels) * self._share_of(architecture, module)
            yield module

    def _share_of(self, architecture: Architecture, module: nn.Module) -> float:
        """The FLOPs of a pass as a share of the base model's."""
        if architecture not in self._shares:
            device = self._context.device
            # What the counted pass draws (dropout) must not depend on what an earlier process has counted.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                cost = self._context.epoch_cost(architecture, module)
            self._shares[architecture] = cost / len(self._context.splits["train"])
        return self._shares[architecture]


def _trained(settings: ElasticSettings, context: Context, state: Path) -> dict[str, Tensor]:
    """The weights after the training, by name, and its budget; goes on from a state where there is one."""
    origin = origin_of(_made_from(settings, context))
    found = read_state(state, origin, "the elastic base")
    start, budget = (None, 0.0) if found is None else (found[0], found[1][_BUDGET])
    model = copy.deepcopy(context.base_model).to(context.device)
    networks = study_sub_networks(settings.criterion, settings.sample, settings.cost, context)
    prefixes = _Prefixes(model, networks, settings, context, budget)

    def keep(reached: TrainingState) -> None:
        write_state(state, reached, origin, {_BUDGET: prefixes.budget})

    train(
        model,
        context.splits["train"],
        distillation_loss(settings.loss, context.task, context.teachers()),
        _training(settings, context),
        device=context.device,
        seed=context.config.seed,
        on_step=lambda done, total: context.on_phase("elastic base", done, total),
        on_epoch=keep,
        start=start,
        passes=prefixes,
    )
    return {**model.state_dict(), _BUDGET: torch.tensor(prefixes.budget, dtype=torch.float64)}


def _training(settings: ElasticSettings, context: Context) -> TrainingConfig:
    own = context.config.training
    rate = settings.learning_rate or own.learning_rate
    return own.model_copy(update={"epochs": settings.epochs, "learning_rate": rate})


def _made_from(settings: ElasticSettings, context: Context) -> list[Any]:
    training = _training(settings, context).model_dump(mode="json")
    return [context.base_key, context.splits["train"].fingerprint, asdict(settings), training, context.config.seed]
