"""AdaBERT: differentiable search of a small convolutional student.

A supernet that mixes seven operations in every cell is trained once per study, by distillation from the base model. It
learns how probable each operation is in each cell. A trial is one architecture drawn from that distribution: cut out of
the supernet with its weights, fine-tuned with distillation, and measured. Trial 0 is the base model, no student.

Reference: METHODS.md, section 3; Chen et al. 2020, "AdaBERT: Task-Adaptive BERT Compression with Differentiable Neural
Architecture Search".
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.architecture.cells import OPERATIONS, CellArchitecture, Operation
from nasopt.errors import StudyFileError
from nasopt.methods.adabert.collapse import cures
from nasopt.methods.adabert.search_options import SearchOptions
from nasopt.methods.base import Control, Method
from nasopt.records.queries import base_of
from nasopt.samplers.adabert import SUPERNET, AdaBERTSampler
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial
    from transformers import PreTrainedModel

    from nasopt.methods.adabert.distilled import Distilled
    from nasopt.methods.adabert.supernet import SupernetSearch
    from nasopt.tasks.base import LabelledTask, Task
    from nasopt.tasks.batches import EncodedSplit
    from nasopt.training.teacher import Teacher

FOLDER = "supernet"
"""Below a study's artifact folder."""

logger = logging.getLogger("nasopt")


class AdaBERTOptions(SearchOptions):
    """`[method_options]` of AdaBERT. Defaults are the published ones where those are given.

    A drawn student is fine-tuned as `[training]` says, with the same weights and pairs; the efficiency loss, by then a
    constant, is left out.
    """

    trials: int = Field(20, ge=1, description="Architectures drawn in a whole search.")
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Of the draws: 1 is the learnt distribution, less keeps to the best.",
    )


class AdaBERTMethod(Method):
    """See the module."""

    name = "adabert"
    task_types = ("text-classification",)
    searches = (
        "operations of a small convolutional student, by a supernet that mixes them; weights are inherited from it"
    )
    options_model = AdaBERTOptions

    def __init__(self, options: AdaBERTOptions) -> None:
        self.options = options

    @property
    def budget(self) -> int:
        return self.options.trials

    def sampler(self, seed: int | None) -> AdaBERTSampler:
        return AdaBERTSampler(temperature=self.options.temperature, seed=seed)

    def check(self, task: Task) -> None:
        shape, options = task.shape, self.options
        for student, teacher in options.layer_pairs:
            if teacher > shape.num_layers:
                raise StudyFileError(
                    f"method_options.layer_pairs: ({student}, {teacher}): the base model has the hidden states 0 to "
                    f"{shape.num_layers} (0: the embeddings, then one after each layer)"
                )
        widest = min(options.hidden_size, shape.hidden_size)
        if options.embedding_rank is not None and options.embedding_rank > widest:
            raise StudyFileError(
                f"method_options.embedding_rank: {options.embedding_rank}, but a rank above {widest} (the smaller of "
                "hidden_size and the base model's) has no use"
            )

    def prepare(self, study: Study, context: Context) -> None:
        """Trains the supernet, once for this study, and writes down what it chose."""
        record = self._search(context).run(lambda done, total: context.on_phase("supernet", done, total))
        if study.user_attrs.get(SUPERNET, {}).get("checkpoint") == record["checkpoint"]:
            return
        study.set_user_attr(SUPERNET, record)
        if record["verdict"] != "fine":
            logger.warning("the supernet has %s; what helps: %s", record["text"], cures(record["verdict"]))

    def base_params(self, shape: EncoderShape) -> dict[str, Any]:
        """None: the base model lies outside what is searched."""
        return {}

    def suggest(self, trial: Trial, shape: EncoderShape) -> dict[str, Any]:
        names = (f"cell_{index}" for index in range(self.options.cells))
        return {name: trial.suggest_categorical(name, OPERATIONS) for name in names}

    def build(self, trial: Trial, params: Mapping[str, Any], context: Context) -> Candidate:
        """Cuts the cells out of the supernet and fine-tunes them."""
        return self._from_supernet([params[f"cell_{index}"] for index in range(self.options.cells)], trial, context)

    def depth(self, params: Mapping[str, Any]) -> int:
        """Cells of the chain, the skipped ones too: every member is compared with every control."""
        return self.options.cells

    def controls(
        self, members: Sequence[FrozenTrial], shape: EncoderShape, random_masks: int, seed: int
    ) -> list[Control]:
        """The bag of embeddings, trained for all epochs of a member's line; and random cells out of the supernet."""
        found = [
            Control("bag-of-embeddings", {"kind": "bag", "epochs": epochs}, self.options.cells)
            for epochs in sorted({_epochs(member) for member in members})
        ]
        if members:
            drawn = random_cells(self.options.cells, random_masks, seed)
            found += [
                Control(f"random-cells-{index}", {"kind": "cells", "cells": list(cells)}, self.options.cells)
                for index, cells in enumerate(drawn)
            ]
        return found

    def build_control(self, recipe: Mapping[str, Any], trial: Trial, context: Context) -> Candidate:
        if recipe["kind"] == "cells":
            return self._from_supernet(recipe["cells"], trial, context)
        from nasopt.methods.adabert.distilled import bag_of_embeddings

        bag = bag_of_embeddings(context.base_model, self.options, context.config.seed)
        architecture = CellArchitecture((), self.options.hidden_size, self.options.embedding_rank)
        candidate = Candidate(bag.network, architecture, Lineage(_base_number(trial)))
        self._fine_tune(candidate, bag, recipe["epochs"], context)
        return candidate

    def module(self, architecture: CandidateArchitecture, task: Task) -> PreTrainedModel:
        if not isinstance(architecture, CellArchitecture):
            return super().module(architecture, task)  # the base model
        from nasopt.models.modeling_adabert import AdaBertForSequenceClassification
        from nasopt.models.searchcell import frozen_config, student_config

        config = student_config(task.load_model().config, architecture.hidden_size, architecture.embedding_rank)
        return AdaBertForSequenceClassification(frozen_config(config, architecture))

    def record(self, study: Study) -> dict[str, Any]:
        """What became of the search of the supernet."""
        found = study.user_attrs.get(SUPERNET)
        return {"supernet": None if found is None else {"epochs": found["epochs"], "verdict": found["text"]}}

    def _from_supernet(self, cells: Sequence[Operation], trial: Trial, context: Context) -> Candidate:
        """A student of these cells with the supernet's weights, fine-tuned."""
        from nasopt.models.searchcell import Supernet, freeze

        options = self.options
        architecture = CellArchitecture(tuple(cells), options.hidden_size, options.embedding_rank)
        supernet = self._search(context).load(trial.study.user_attrs[SUPERNET]["checkpoint"])
        assert isinstance(supernet.network, Supernet)
        student = freeze(supernet.network, architecture)
        lineage = Lineage(_base_number(trial), search_epochs=options.search_epochs)
        candidate = Candidate(student, architecture, lineage)
        self._fine_tune(candidate, supernet, context.config.training.epochs, context)
        return candidate

    def _fine_tune(self, candidate: Candidate, origin: Distilled, epochs: int, context: Context) -> None:
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
            self.options,
            self._teacher(context),
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
        candidate.lineage = replace(candidate.lineage, distill_epochs=candidate.lineage.distill_epochs + epochs)

    def _teacher(self, context: Context) -> Teacher | None:
        """The hidden states that are compared; None where there are none."""
        layers = self.options.teacher_layers if self.options.distillation_weight else ()
        return context.teachers(layers)[0] if layers else None

    def _search(self, context: Context) -> SupernetSearch:
        from nasopt.methods.adabert.supernet import SupernetSearch

        options = SearchOptions.model_validate(self.options.model_dump(include=set(SearchOptions.model_fields)))
        made_from = [context.base_key, context.splits["train"].fingerprint, options.model_dump(), context.config.seed]
        return SupernetSearch(
            base_model=context.base_model,
            split=_examples(context),
            task_loss=_labelled(context).loss,
            make_teacher=lambda: self._teacher(context),
            options=options,
            folder=context.folder / FOLDER,
            origin=hashlib.sha256(json.dumps(made_from).encode()).hexdigest(),
            device=context.device,
            seed=context.config.seed,
        )


def random_cells(cells: int, count: int, seed: int) -> list[tuple[Operation, ...]]:
    """Different chains, each operation equally likely; those of a smaller `count` are the first of a larger."""
    rng = np.random.default_rng([seed, cells])
    drawn: dict[tuple[Operation, ...], None] = {}
    while len(drawn) < min(count, len(OPERATIONS) ** cells):
        drawn.setdefault(tuple(OPERATIONS[index] for index in rng.integers(len(OPERATIONS), size=cells)))
    return list(drawn)


def _labelled(context: Context) -> LabelledTask:
    task = context.task.labelled
    assert task is not None
    return task


def _examples(context: Context) -> EncodedSplit:
    """The training split."""
    (split,) = context.splits["train"].sides
    return split


def _epochs(trial: FrozenTrial) -> int:
    """Epochs of a trial's whole line: the supernet's and its own."""
    return int(trial.user_attrs.get("search_epochs", 0) + trial.user_attrs.get("distill_epochs", 0))


def _base_number(trial: Trial) -> int | None:
    base = base_of(trial.study)
    return None if base is None else base.number
