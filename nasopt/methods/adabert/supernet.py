"""The training of AdaBERT's supernet: once per study, resumable, with a record of what it chose and when.

Network and architecture weights learn in turns (or from the same batches), after METHODS.md section 3 and Liu et al.
2019, "DARTS", first-order approximation.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nasopt.architecture.cells import OPERATIONS
from nasopt.host.files import write_atomically
from nasopt.host.locks import Lock
from nasopt.host.object_store import refresh, remove
from nasopt.methods.adabert.collapse import cures, judge
from nasopt.methods.adabert.distilled import Distilled, LayerMatching, TaskLoss, initialise_embedding, new_projections
from nasopt.methods.adabert.efficiency import efficiency
from nasopt.methods.adabert.search_options import SearchOptions
from nasopt.models.searchcell import Supernet, strongest, student_config
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.tasks.batches import Batch, EncodedSplit
from nasopt.training.loop import SecondOptimizer, StepCallback, train
from nasopt.training.state import TrainingState, read_state, write_state
from nasopt.training.teacher import Teacher

RECORD = "record.json"
STATE = "state.safetensors"
LOSSES = ("task", "distillation", "efficiency")

logger = logging.getLogger("nasopt")


@dataclass
class History:
    """The course of a search, with one entry for each epoch.

    Attributes:
        losses: by name, the mean over the epoch's batches, unweighted.
        theta: probabilities of the operations, (cells, 7), ordered as :data:`nasopt.architecture.cells.OPERATIONS`.
        entropy: the entropy of theta in nats, (cells,).
        chosen: the most probable operation of each cell.
    """

    losses: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOSSES})
    theta: list[list[list[float]]] = field(default_factory=list)
    entropy: list[list[float]] = field(default_factory=list)
    chosen: list[list[str]] = field(default_factory=list)

    def add(self, losses: dict[str, float], supernet: Supernet) -> None:
        for name, value in losses.items():
            self.losses[name].append(round(value, 5))
        self.theta.append([[round(value, 4) for value in row] for row in supernet.theta().tolist()])
        self.entropy.append([round(value, 4) for value in supernet.entropy().tolist()])
        self.chosen.append(list(strongest(supernet).cells))


class SearchLoss:
    """`L = l1 * L_CE + l2 * L_KD + l3 * L_eff` of a supernet, with tau and l3 as they are in the epoch under way."""

    def __init__(self, task_loss: TaskLoss, options: SearchOptions, teacher: Teacher | None) -> None:
        self._task_loss, self._options = task_loss, options
        self._matching = LayerMatching(options.layer_pairs, teacher, options.teacher_layers)
        self._sums: list[Tensor] = []
        self._count = 0
        self.epoch = 0

    def __call__(self, model: Distilled, batch: Batch) -> Tensor:
        options, supernet = self._options, model.network
        assert isinstance(supernet, Supernet)
        logits, states = supernet(batch.inputs["input_ids"], batch.attention_mask, tau=options.tau(self.epoch))
        task = self._task_loss(logits, batch.labels)
        distilled = self._matching(states, model.projections, batch)
        with torch.autocast(task.device.type, enabled=False):  # a product of probabilities and costs, in fp32
            costs = efficiency(supernet.theta(), options.hidden_size)
        parts = [part.detach().float() for part in (task, distilled, costs)]
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)] if self._sums else parts
        self._count += 1
        weight = options.efficiency_weight_in(self.epoch)
        return options.task_weight * task + options.distillation_weight * distilled + weight * costs

    def means(self) -> dict[str, float]:
        """The parts, averaged over the batches since the last call."""
        means = {name: float(total) / self._count for name, total in zip(LOSSES, self._sums, strict=True)}
        self._sums, self._count = [], 0
        return means


def make_supernet(base_model: PreTrainedModel, options: SearchOptions, seed: int) -> Distilled:
    """An untrained supernet with its projections; its embedding starts from the base model's."""
    config = student_config(base_model.config, options.hidden_size, options.embedding_rank)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(config, options.cells)
        projections = new_projections(base_model, options)
    initialise_embedding(supernet.embeddings, base_model, options)
    return Distilled(supernet, projections)


@dataclass(frozen=True)
class SupernetSearch:
    """The training of one study's supernet, which is done once and can be resumed.

    Args:
        base_model: the teacher, for its embedding and sizes.
        split: the training split.
        task_loss: the task's loss.
        make_teacher: gives the teacher of the hidden states `options.teacher_layers`; asked only if it is needed.
        options: the search's options.
        folder: where the supernet, and the state that it is resumed from, are kept.
        origin: a hash of all that it depends on; a supernet of another origin is made anew.
        device: where it is trained.
        seed: decides its weights, the order of the data and the noise.
    """

    base_model: PreTrainedModel
    split: EncodedSplit
    task_loss: TaskLoss
    make_teacher: Callable[[], Teacher | None]
    options: SearchOptions
    folder: Path
    origin: str
    device: torch.device
    seed: int

    def run(self, on_step: StepCallback | None = None) -> dict[str, Any]:
        """Trains the supernet, or goes on with it, or finds it done; one process at a time.

        Returns:
            The record of the search (JSON).

        Raises:
            TrainingDivergedError: the loss is not finite.
        """
        store = CheckpointStore(self.folder)
        if (record := self._finished(store)) is not None:
            return record
        store.make_writable()
        with Lock(self.folder / ".lock"):  # workers that start together: the second finds what the first made
            return self._finished(store) or self._warned(self._train(store, on_step))

    @staticmethod
    def _warned(record: dict[str, Any]) -> dict[str, Any]:
        """Warns if a search that has just ended collapsed or decided nothing; returns its record."""
        if record["verdict"] != "fine":
            logger.warning("the supernet has %s; what helped elsewhere: %s", record["text"], cures(record["verdict"]))
        return record

    def load(self, checkpoint: str) -> Distilled:
        """The trained supernet with its projections, on the CPU.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        weights, _ = CheckpointStore(self.folder).read(checkpoint)
        model = make_supernet(self.base_model, self.options, self.seed)
        model.load_state_dict(weights)
        return model.eval()

    def _finished(self, store: CheckpointStore) -> dict[str, Any] | None:
        path = self.folder / RECORD
        if not refresh(path):
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            is_ours = record["origin"] == self.origin and record["checkpoint"] in store
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: cannot be read; the supernet is trained again", path)
            return None
        return record if is_ours else None

    def _train(self, store: CheckpointStore, on_step: StepCallback | None) -> dict[str, Any]:
        options = self.options
        model = make_supernet(self.base_model, options, self.seed)
        supernet = model.network
        assert isinstance(supernet, Supernet)
        loss = SearchLoss(self.task_loss, options, self.make_teacher())
        start, history = self._resumed()
        loss.epoch = 0 if start is None else start.epochs
        network_examples, choice_examples = self._examples()

        def keep(state: TrainingState) -> None:
            history.add(loss.means(), supernet)
            loss.epoch = state.epochs
            self._keep(state, history)

        started = time.perf_counter()
        train(
            model,
            self.split,
            loss,
            options.training,
            device=self.device,
            seed=self.seed,
            on_step=on_step,
            examples=network_examples,
            second=SecondOptimizer(
                supernet.architecture_parameters(),
                options.architecture_learning_rate,
                choice_examples,
                options.warmup_epochs,
            ),
            on_epoch=keep,
            start=start,
        )
        checkpoint = store.write(model.state_dict(), strongest(supernet))
        record = self._record(checkpoint, supernet, history)
        record["seconds"] = round(time.perf_counter() - started, 1)  # only the last sitting, where there were several
        write_atomically(self.folder / RECORD, json.dumps(record))
        remove(self.folder / STATE)
        store.collect(store.keys(), {checkpoint})  # a supernet of another origin is of no use
        return record

    def _examples(self) -> tuple[Tensor | None, Tensor | None]:
        """Positions in the split that the network and the choice are trained on; None: all, from the same batches."""
        share = round(len(self.split) * self.options.architecture_split)
        if share == 0:
            return None, None
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.seed))
        return order[share:].sort().values, order[:share].sort().values

    def _keep(self, state: TrainingState, history: History) -> None:
        """Writes down where the search is, so that a process that is killed loses at most an epoch."""
        write_state(self.folder / STATE, state, self.origin, {"history": vars(history)})

    def _resumed(self) -> tuple[TrainingState | None, History]:
        """The state and history of an earlier process, if its search had the same origin."""
        found = read_state(self.folder / STATE, self.origin, "the supernet")
        return (None, History()) if found is None else (found[0], History(**found[1]["history"]))

    def _record(self, checkpoint: str, supernet: Supernet, history: History) -> dict[str, Any]:
        options = self.options
        epochs = range(options.search_epochs)
        verdict = judge(history.chosen[-1], history.entropy)
        return {
            "origin": self.origin,
            "checkpoint": checkpoint,
            "epochs": options.search_epochs,
            "operations": list(OPERATIONS),
            "logits": supernet.architecture_logits.tolist(),
            "tau": [round(options.tau(epoch), 4) for epoch in epochs],
            "efficiency_weight": [round(options.efficiency_weight_in(epoch), 4) for epoch in epochs],
            **vars(history),
            "verdict": verdict.kind,
            "text": verdict.text,
        }
