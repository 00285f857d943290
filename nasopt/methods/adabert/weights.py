"""The weight sources of AdaBERT's students: the trained supernet, or its embedding alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.cells import PARAMETER_FREE, CellArchitecture, Operation
from nasopt.methods.adabert.options import AdaBERTOptions
from nasopt.methods.adabert.search_options import SearchOptions
from nasopt.training.candidate import Candidate
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from torch import nn

    from nasopt.methods.adabert.distilled import Distilled
    from nasopt.methods.adabert.supernet import SupernetSearch
    from nasopt.tasks.base import LabelledTask
    from nasopt.tasks.batches import Batch, EncodedSplit
    from nasopt.training.context import Context
    from nasopt.training.teacher import Teacher

FOLDER = "supernet"
"""The supernet's folder, below a study's artifact folder."""


def student_architecture(cells: Sequence[Operation], options: AdaBERTOptions) -> CellArchitecture:
    """A student of these cells, as wide as the supernet."""
    return CellArchitecture(tuple(cells), options.hidden_size, options.embedding_rank)


@dataclass(frozen=True)
class FromSupernet(WeightSource):
    """The supernet's weights of the operations that were chosen, fine-tuned with distillation."""

    options: AdaBERTOptions

    def work(self, params: Mapping[str, Any]) -> Hashable:
        """The chain without its skips.

        A cell without weights is the same wherever it stands; others have the weights of their place. Distillation
        depends on the hidden states that the chain still has.
        """
        options = self.options
        chain = student_architecture([params[f"cell_{index}"] for index in range(options.cells)], options)
        cells = [
            (chain.cells[index], None if chain.cells[index] in PARAMETER_FREE else index) for index in chain.kept_cells
        ]
        pairs = options.surviving_pairs(chain) if options.distillation_weight else ()
        students = [(position, chain.student_index(options.layer_pairs[position][0])) for position in pairs]
        return tuple(cells), tuple(students)

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        from nasopt.models.searchcell import Supernet, freeze

        assert isinstance(architecture, CellArchitecture)
        search = supernet_search(self.options, context)
        supernet = search.load(search.run()["checkpoint"])
        assert isinstance(supernet.network, Supernet)
        cost = context.epoch_cost(architecture, supernet.network, _mixed_pass)
        lineage = replace(
            context.base_lineage,
            search_epochs=self.options.search_epochs,
            budget=self.options.search_passes * cost,
        )
        candidate = Candidate(freeze(supernet.network, architecture), architecture, lineage)
        _fine_tune(candidate, supernet, context.config.training.epochs, self.options, context)
        return candidate


@dataclass(frozen=True)
class BagOfEmbeddings(WeightSource):
    """No cells at all, from the same embedding as the supernet: the control that a search has to beat.

    Attributes:
        options: the search's options.
        epochs: the number of epochs that it is trained for.
    """

    options: AdaBERTOptions
    epochs: int

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        from nasopt.methods.adabert.distilled import bag_of_embeddings

        bag = bag_of_embeddings(context.base_model, self.options, context.config.seed)
        candidate = Candidate(bag.network, architecture, context.base_lineage)
        _fine_tune(candidate, bag, self.epochs, self.options, context)
        return candidate


def supernet_search(options: AdaBERTOptions, context: Context) -> SupernetSearch:
    """The training of a study's supernet."""
    from nasopt.methods.adabert.supernet import SupernetSearch

    search = SearchOptions.model_validate(options.model_dump(include=set(SearchOptions.model_fields)))
    made_from = [context.base_key, context.splits["train"].fingerprint, search.model_dump(), context.config.seed]
    return SupernetSearch(
        base_model=context.base_model,
        split=_examples(context),
        task_loss=_labelled(context).loss,
        make_teacher=lambda: _teacher(options, context),
        options=search,
        folder=context.folder / FOLDER,
        origin=hashlib.sha256(json.dumps(made_from).encode()).hexdigest(),
        device=context.device,
        seed=context.config.seed,
    )


def _fine_tune(candidate: Candidate, origin: Distilled, epochs: int, options: AdaBERTOptions, context: Context) -> None:
    """Distils a student for some epochs; its projections go on from those of `origin`.

    The seed is the study's, so that students and controls see the same batches in the same order.
    """
    from nasopt.methods.adabert.distilled import fine_tuning
    from nasopt.training.loop import train

    assert isinstance(candidate.architecture, CellArchitecture)
    model, loss = fine_tuning(
        candidate.architecture,
        candidate.model,
        origin.projections,
        _labelled(context).loss,
        options,
        _teacher(options, context),
    )
    result = train(
        model,
        _examples(context),
        loss,
        context.config.training.model_copy(update={"epochs": epochs}),
        device=context.device,
        seed=context.config.seed,
        on_step=lambda done, total: context.on_phase("training", done, total),
    )
    candidate.training = result.to_dict()
    cost = context.epoch_cost(candidate.architecture, candidate.model)
    candidate.lineage = candidate.lineage.trained("distill", epochs, cost)


def _mixed_pass(supernet: nn.Module, batch: Batch) -> Any:
    """One pass through all operations of a supernet."""
    return supernet(batch.inputs["input_ids"], batch.attention_mask)


def _teacher(options: AdaBERTOptions, context: Context) -> Teacher | None:
    """The teacher of the hidden states that are compared; None where there are none."""
    layers = options.teacher_layers if options.distillation_weight else ()
    return context.teachers(layers)[0] if layers else None


def _labelled(context: Context) -> LabelledTask:
    task = context.task.labelled
    assert task is not None
    return task


def _examples(context: Context) -> EncodedSplit:
    """The training split."""
    (split,) = context.splits["train"].sides
    return split
